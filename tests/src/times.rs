//! Percentiles of what took how long.

use std::time::Duration;

/// The time that a `share` of all were within, in microseconds; 0 of none. Sorts them.
pub fn percentile_us(times: &mut [Duration], share: f64) -> f64 {
    times.sort_unstable();
    let rank = (times.len() as f64 * share).ceil() as usize;
    let time = times.get(rank.saturating_sub(1)).copied();
    time.unwrap_or_default().as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let mut times: Vec<_> = (1..=200).rev().map(Duration::from_micros).collect();
        assert_eq!(percentile_us(&mut times, 0.5), 100.0);
        assert_eq!(percentile_us(&mut times, 0.99), 198.0);
        assert_eq!(percentile_us(&mut times, 1.0), 200.0);
        assert_eq!(percentile_us(&mut [], 0.5), 0.0);
    }
}
