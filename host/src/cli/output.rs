//! What people see: tables, units and progress.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

/// Writes a line to standard output. Unlike `println!` it does not panic when nobody reads.
pub fn say(line: impl Display) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{line}")
}

/// Writes bytes as they are, into `file` or to standard output.
pub async fn keep(bytes: &[u8], file: Option<&Path>) -> anyhow::Result<()> {
    match file {
        Some(file) => tokio::fs::write(file, bytes)
            .await
            .with_context(|| format!("cannot write {}", file.display())),
        None => Ok(write_all(bytes)?),
    }
}

/// Writes bytes to standard output as they are.
pub fn write_all(bytes: &[u8]) -> io::Result<()> {
    io::stdout().lock().write_all(bytes)
}

/// Writes `value` as indented JSON.
pub fn say_json(value: &Value) -> anyhow::Result<()> {
    Ok(say(serde_json::to_string_pretty(value)?)?)
}

/// A column of a list: its heading, where its value stands in an item, and how it is written.
#[derive(Clone, Copy)]
pub struct Column(pub &'static str, pub &'static str, pub Style);

/// How a value is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// As it is, left-aligned.
    Text,
    /// An instant, without its fraction of a second.
    Instant,
    /// A whole number, right-aligned and grouped.
    Number,
    /// Bytes, right-aligned.
    Bytes,
    /// Microjoules, right-aligned.
    Energy,
    /// Nanoseconds, right-aligned, as milliseconds.
    Millis,
    /// Micrograms, right-aligned.
    Mass,
    /// Microlitres, right-aligned.
    Volume,
}

impl Style {
    fn is_figure(self) -> bool {
        !matches!(self, Self::Text | Self::Instant)
    }

    fn write(self, value: &Value) -> String {
        let count = value.as_u64();
        match (self, value) {
            (_, Value::Null) => "–".to_owned(),
            (Self::Instant, Value::String(text)) => instant(text),
            (Self::Number, Value::Number(number)) => {
                number.as_i64().map_or_else(|| number.to_string(), signed)
            }
            (Self::Bytes, _) if count.is_some() => bytes(count.unwrap_or_default()),
            (Self::Energy, _) if count.is_some() => energy(count.unwrap_or_default()),
            (Self::Millis, _) if count.is_some() => millis(count.unwrap_or_default()),
            (Self::Mass, _) if count.is_some() => millionths(count.unwrap_or_default(), "g"),
            (Self::Volume, _) if count.is_some() => millionths(count.unwrap_or_default(), "l"),
            (_, Value::String(text)) => text.clone(),
            (_, other) => other.to_string(),
        }
    }
}

/// An empty table with `headings`; those of `right` are aligned to the right.
pub fn table(headings: &[&str], right: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─')));
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings.iter().copied());
    for &index in right {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Writes `items` as a table, or as JSON.
pub fn list(items: &[Value], columns: &[Column], json: bool) -> anyhow::Result<()> {
    if json {
        return say_json(&serde_json::json!({ "items": items }));
    }
    if items.is_empty() {
        return Ok(say("(none)")?);
    }
    let headings: Vec<_> = columns.iter().map(|column| column.0).collect();
    let right: Vec<_> = (0..columns.len())
        .filter(|&index| columns[index].2.is_figure())
        .collect();
    let mut table = table(&headings, &right);
    for item in items {
        let cell = |column: &Column| column.2.write(item.pointer(column.1).unwrap_or(&Value::Null));
        table.add_row(columns.iter().map(cell));
    }
    Ok(say(table.trim_fmt())?)
}

/// Writes what is known of one thing, a line each, the names in a column.
pub fn facts(facts: &[(&str, String)]) -> anyhow::Result<()> {
    let width = facts
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or_default();
    for (name, value) in facts {
        say(format_args!("{name:<width$}  {value}"))?;
    }
    Ok(())
}

/// A bar that fills while a file is sent; hidden where standard error is no terminal.
pub fn upload_bar(bytes: u64, file: &Path) -> ProgressBar {
    let name = file
        .file_name()
        .unwrap_or(file.as_os_str())
        .to_string_lossy()
        .into_owned();
    let bar = ProgressBar::new(bytes).with_message("sending").with_prefix(name);
    if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:24} {bytes}/{total_bytes} {msg} {spinner}")
    {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// A tensor of a signature, such as `rows FP32 [?,100]`.
pub fn tensor(tensor: &Value) -> String {
    let axes = tensor["shape"].as_array().into_iter().flatten();
    let axes: Vec<_> = axes
        .map(|axis| axis.as_u64().map_or("?".to_owned(), |n| n.to_string()))
        .collect();
    let text = |field: &str| tensor[field].as_str().unwrap_or_default();
    format!("{} {} [{}]", text("name"), text("dtype"), axes.join(","))
}

/// Energy in a unit that keeps the figure readable, from microjoules.
pub fn energy(uj: u64) -> String {
    match uj {
        0..1_000 => format!("{uj} µJ"),
        1_000..1_000_000 => format!("{:.2} mJ", uj as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.3} J", uj as f64 / 1e6),
        _ => format!("{:.3} kJ", uj as f64 / 1e9),
    }
}

/// Millionths of `unit` in a unit that keeps the figure readable.
fn millionths(count: u64, unit: &str) -> String {
    match count {
        0..1_000 => format!("{count} µ{unit}"),
        1_000..1_000_000 => format!("{:.2} m{unit}", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.3} {unit}", count as f64 / 1e6),
        _ => format!("{:.3} k{unit}", count as f64 / 1e9),
    }
}

/// Nanoseconds as milliseconds.
pub fn millis(ns: u64) -> String {
    format!("{:.2}", ns as f64 / 1e6)
}

/// Bytes in a unit that keeps the figure readable.
pub fn bytes(count: u64) -> String {
    match count {
        0..1_024 => format!("{count} B"),
        1_024..1_048_576 => format!("{:.1} KiB", count as f64 / 1024.0),
        _ => format!("{:.1} MiB", count as f64 / 1_048_576.0),
    }
}

/// A whole number with its digits in threes.
pub fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn signed(count: i64) -> String {
    format!(
        "{}{}",
        if count < 0 { "−" } else { "" },
        grouped(count.unsigned_abs())
    )
}

/// The first digits of a digest: enough to tell two apart on a screen.
pub fn short_digest(digest: &str) -> String {
    digest
        .get(..19)
        .map_or_else(|| digest.to_owned(), |start| format!("{start}…"))
}

/// The last digits of a UUIDv7, where calls of the same second differ.
pub fn short_id(id: &str) -> String {
    let start = id.len().saturating_sub(12);
    id.get(start..)
        .filter(|_| start > 0)
        .map_or_else(|| id.to_owned(), |end| format!("…{end}"))
}

fn instant(text: &str) -> String {
    let without_fraction = text.split_once('.').map_or(text, |(seconds, _)| seconds);
    without_fraction.trim_end_matches('Z').replace('T', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_readable() {
        for (uj, text) in [
            (0, "0 µJ"),
            (999, "999 µJ"),
            (1_000, "1.00 mJ"),
            (2_345_678, "2.346 J"),
            (7_000_000_000, "7.000 kJ"),
        ] {
            assert_eq!(energy(uj), text);
        }
        for (count, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (12_345_678, "12,345,678"),
        ] {
            assert_eq!(grouped(count), text);
        }
        assert_eq!(Style::Number.write(&serde_json::json!(-1_234)), "−1,234");
        assert_eq!(bytes(1_536), "1.5 KiB");
        assert_eq!(millis(1_234_567), "1.23");
    }

    #[test]
    fn ids_are_shortened_only_for_people() {
        assert_eq!(short_id("0190a1b2-0000-7000-8000-0123456789ab"), "…0123456789ab");
        assert_eq!(short_id("short"), "short");
        assert_eq!(short_digest("sha256:0123456789abcdef"), "sha256:0123456789ab…");
        assert_eq!(instant("2026-11-23T20:21:53.123Z"), "2026-11-23 20:21:53");
    }

    #[test]
    fn missing_values_are_a_dash_and_never_zero() {
        assert_eq!(Style::Energy.write(&Value::Null), "–");
        assert_eq!(Style::Energy.write(&serde_json::json!(0)), "0 µJ");
        assert_eq!(Style::Mass.write(&Value::Null), "–");
        assert_eq!(Style::Mass.write(&serde_json::json!(1_234_567)), "1.235 g");
        assert_eq!(Style::Volume.write(&serde_json::json!(999)), "999 µl");
    }
}
