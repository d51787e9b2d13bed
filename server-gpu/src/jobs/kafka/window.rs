//! What is known of the parts of a partition from the committed offset on.
//!
//! Kafka remembers one offset for a partition: all before it is done. Behind it parts end in any order, and Kafka does not count how
//! often one was given out. Both stand in the text that is committed with the offset, two characters for each part, so that
//! whoever gets the partition next goes on where this worker was.

use std::collections::VecDeque;

/// Parts of a partition that may be held behind one that is not done. Their text must stay below what brokers take, 4096 bytes if
/// nobody changed it (`offset.metadata.max.bytes`).
pub(super) const MOST: usize = 1024;

/// A part that is done, as it stands in the text.
const DONE: u16 = BASE * BASE - 1;

const DIGITS: &[u8; BASE as usize] = b"0123456789abcdefghijklmnopqrstuvwxyz";
const BASE: u16 = 36;

/// Form of the text; one of another form says nothing.
const FORM: &str = "1:";

/// The parts from the committed offset on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Window {
    base: i64,
    /// Times that each part was given out, or [`DONE`].
    counts: VecDeque<u16>,
}

impl Window {
    /// What was committed; a text that was not written here says nothing.
    pub(super) fn read(offset: i64, text: &str) -> Window {
        let digit = |byte: u8| DIGITS.iter().position(|&digit| digit == byte).map(|at| at as u16);
        let pairs = text.strip_prefix(FORM).unwrap_or_default().as_bytes().chunks_exact(2);
        let counts = pairs.map(|pair| Some(digit(pair[0])? * BASE + digit(pair[1])?));
        let mut window = Window { base: offset, counts: counts.collect::<Option<_>>().unwrap_or_default() };
        window.advance();
        window
    }

    /// The offset to commit, and its text.
    pub(super) fn write(&self) -> (i64, String) {
        let known = self.counts.iter().rposition(|&count| count > 0).map_or(0, |last| last + 1);
        let mut text = String::from(FORM);
        for count in self.counts.iter().take(known.min(MOST)) {
            text.extend([count / BASE, count % BASE].map(|digit| DIGITS[digit as usize] as char));
        }
        (self.base, text)
    }

    /// Parts that are not done, of all from the committed offset to `end`.
    pub(super) fn open(&self, end: i64) -> u64 {
        let done = self.counts.iter().filter(|&&count| count == DONE).count() as i64;
        u64::try_from(end - self.base - done).unwrap_or(0)
    }

    /// Whether no more can be taken until the first part is done.
    pub(super) fn is_full(&self) -> bool {
        self.counts.len() >= MOST
    }

    /// Takes note of a part that arrived; says whether there is something to do. Offsets that are left out have no part.
    pub(super) fn arrived(&mut self, offset: i64) -> bool {
        if self.counts.is_empty() {
            self.base = self.base.max(offset);
        }
        let Ok(at) = usize::try_from(offset - self.base) else { return false };
        while self.counts.len() < at {
            self.counts.push_back(DONE);
        }
        if self.counts.len() == at {
            self.counts.push_back(0);
        }
        self.counts[at] != DONE
    }

    /// Counts that a part is given out; how often, this time included. 0 of one that is not there.
    pub(super) fn given(&mut self, offset: i64) -> usize {
        match self.count(offset) {
            Some(count) if *count != DONE => {
                *count = (*count + 1).min(DONE - 1);
                usize::from(*count)
            }
            _ => 0,
        }
    }

    /// Takes that back: nobody got it.
    pub(super) fn not_given(&mut self, offset: i64) {
        if let Some(count) = self.count(offset).filter(|count| **count != DONE) {
            *count = count.saturating_sub(1);
        }
    }

    /// A part is done.
    pub(super) fn done(&mut self, offset: i64) {
        if let Some(count) = self.count(offset) {
            *count = DONE;
        }
        self.advance();
    }

    fn count(&mut self, offset: i64) -> Option<&mut u16> {
        self.counts.get_mut(usize::try_from(offset - self.base).ok()?)
    }

    fn advance(&mut self) {
        while self.counts.front() == Some(&DONE) {
            self.counts.pop_front();
            self.base += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_out_of_order_is_done_for_the_next_one_too() {
        let mut window = Window::read(10, "");
        for offset in 10..15 {
            assert!(window.arrived(offset));
            assert_eq!(window.given(offset), 1);
        }
        window.done(12);
        window.done(10);
        assert_eq!(window.write(), (11, "1:01zz0101".into()));
        assert_eq!(window.open(20), 8);

        let mut next = Window::read(11, "1:01zz0101");
        assert_eq!(next, window);
        assert!(!next.arrived(12));
        assert_eq!([next.given(11), next.given(13), next.given(12)], [2, 2, 0]);
        next.done(11);
        assert_eq!(next.write(), (13, "1:0201".into()));
        next.not_given(13);
        assert_eq!(next.write(), (13, "1:0101".into()));
    }

    #[test]
    fn what_arrives_and_is_not_given_out_is_not_written() {
        let mut window = Window::read(0, "1:");
        assert!((0..5).all(|offset| window.arrived(offset)));
        window.given(1);
        assert_eq!(window.write(), (0, "1:0001".into()));
    }

    #[test]
    fn offsets_without_a_part_are_passed_over() {
        let mut window = Window::read(0, "");
        // Everything before was deleted.
        assert!(window.arrived(70));
        assert!(window.arrived(73));
        assert_eq!([window.given(70), window.given(73)], [1, 1]);
        window.done(70);
        assert_eq!(window.write(), (73, "1:01".into()));
        // An offset that comes again from before is nobody's.
        assert!(!window.arrived(71));
        window.done(5);
        assert_eq!(window.write(), (73, "1:01".into()));
    }

    #[test]
    fn texts_are_bounded_and_those_of_others_ignored() {
        let mut window = Window::read(0, "");
        for offset in 0..3000 {
            window.arrived(offset);
            window.given(offset);
        }
        assert!(window.is_full());
        assert_eq!(window.write().1.len(), FORM.len() + 2 * MOST);
        for text in ["2:01", "1:0", "1:0Z", "1:é", "hello"] {
            assert_eq!(Window::read(7, text), Window::read(7, ""), "{text}");
        }
        for _ in 0..2000 {
            window.given(0);
        }
        assert_eq!(window.given(0), usize::from(DONE - 1), "a count does not become what means done");
    }
}
