//! Which of many facts holds when.

use std::collections::{BTreeMap, BinaryHeap};

use time::OffsetDateTime;

use super::{Fact, Known};

/// The facts of one zone that count as of an instant, without overlap.
///
/// What a source says later of the same start replaces what it said before, also where it now ends earlier. Of several
/// facts that then cover the same time one that was measured counts before an estimate; then the one that begins last,
/// because it is the finer one (an hour in a year); of those that begin together, the one that became known last.
#[derive(Clone, Debug)]
pub struct Timeline<I> {
    facts: Vec<Fact<I>>,
    /// From, to, and which fact; sorted, without overlap, and nothing where there are gaps.
    segments: Vec<(OffsetDateTime, OffsetDateTime, usize)>,
}

impl<I> Timeline<I> {
    /// What `facts`, all of one zone, say as of an instant: those that became known later do not count.
    pub fn new(facts: impl IntoIterator<Item = Known<Fact<I>>>, as_of: OffsetDateTime) -> Self {
        let mut facts = newest(facts.into_iter().filter(|fact| fact.known_at <= as_of));
        facts.retain(|fact| fact.it.from < fact.it.to);
        facts.sort_by_key(|fact| (!fact.it.is_estimated, fact.it.from, fact.known_at));
        let mut begins: Vec<_> = (0..facts.len()).collect();
        begins.sort_by_key(|&fact| facts[fact].it.from);
        let mut bounds: Vec<_> = facts.iter().flat_map(|fact| [fact.it.from, fact.it.to]).collect();
        bounds.sort_unstable();
        bounds.dedup();
        let mut segments: Vec<(OffsetDateTime, OffsetDateTime, usize)> = Vec::new();
        // By index: the facts are in the order in which they give way to each other.
        let (mut open, mut next) = (BinaryHeap::new(), 0);
        for pair in bounds.windows(2) {
            let (from, to) = (pair[0], pair[1]);
            while let Some(&fact) = begins.get(next).filter(|&&fact| facts[fact].it.from <= from) {
                open.push(fact);
                next += 1;
            }
            while open.peek().is_some_and(|&fact| facts[fact].it.to <= from) {
                open.pop();
            }
            match (open.peek(), segments.last_mut()) {
                (Some(&fact), Some(last)) if last.1 == from && last.2 == fact => last.1 = to,
                (Some(&fact), _) => segments.push((from, to, fact)),
                (None, _) => {}
            }
        }
        let facts = facts.into_iter().map(|fact| fact.it).collect();
        Self { facts, segments }
    }

    /// What holds in `[from, to)`, piece by piece in order; what is between the pieces is not known.
    pub fn within(
        &self,
        from: OffsetDateTime,
        to: OffsetDateTime,
    ) -> impl Iterator<Item = (OffsetDateTime, OffsetDateTime, &Fact<I>)> {
        let first = self.segments.partition_point(|&(_, end, _)| end <= from);
        self.segments[first..]
            .iter()
            .take_while(move |&&(start, ..)| start < to)
            .map(move |&(start, end, fact)| (start.max(from), end.min(to), &self.facts[fact]))
    }
}

/// The last word of each source on what begins when.
fn newest<I>(facts: impl Iterator<Item = Known<Fact<I>>>) -> Vec<Known<Fact<I>>> {
    let mut newest: BTreeMap<(String, OffsetDateTime), Known<Fact<I>>> = BTreeMap::new();
    for fact in facts {
        let key = (fact.it.source.clone(), fact.it.from);
        if newest
            .get(&key)
            .is_none_or(|other| other.known_at <= fact.known_at)
        {
            newest.insert(key, fact);
        }
    }
    newest.into_values().collect()
}
