//! Stop strings over a stream of text.

/// Stop strings that mean nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("stop string {0} is empty")]
pub struct StopError(pub usize);

impl StopError {
    /// A stable name of the kind of error, for programs.
    pub fn kind(&self) -> &'static str {
        "empty_stop_string"
    }
}

/// Ends a stream of text at the first of some strings, which is not shown itself.
///
/// Text that may be the beginning of a stop string is held back until it is known to be none. The stop string that is
/// complete first wins, of several that end at one place the longest; so the result does not depend on how the text is
/// cut into pieces.
#[derive(Debug, Clone, Default)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
    found: Option<usize>,
}

impl StopStrings {
    /// For these strings; with none, all text passes at once.
    ///
    /// # Errors
    /// [`StopError`] if one is empty.
    pub fn new<S: Into<String>>(stops: impl IntoIterator<Item = S>) -> Result<Self, StopError> {
        let stops: Vec<String> = stops.into_iter().map(Into::into).collect();
        match stops.iter().position(String::is_empty) {
            Some(at) => Err(StopError(at)),
            None => Ok(StopStrings { stops, ..Self::default() }),
        }
    }

    /// Takes the next piece and returns the text that can be shown. Nothing is shown any more once a stop string came.
    pub fn push(&mut self, piece: &str) -> String {
        if self.found.is_some() {
            return String::new();
        }
        // What was held back holds no stop string: those that end in the new piece are looked for.
        self.held.push_str(piece);
        let ends = self.stops.iter().enumerate().filter_map(|(i, s)| {
            let start = self.held.find(s.as_str())?;
            Some((start + s.len(), start, i))
        });
        if let Some((_, start, i)) = ends.min() {
            self.found = Some(i);
            let mut text = std::mem::take(&mut self.held);
            text.truncate(start);
            return text;
        }
        let keep = self.stops.iter().map(|s| begun(&self.held, s)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        std::mem::replace(&mut self.held, rest)
    }

    /// The stop string that came, as its place in the list.
    pub fn stopped(&self) -> Option<usize> {
        self.found
    }

    /// The text ended otherwise: returns what was held back, and begins anew.
    pub fn finish(&mut self) -> String {
        self.found = None;
        std::mem::take(&mut self.held)
    }
}

/// Bytes of the longest end of `text` that is a beginning of `stop`, and not all of it.
fn begun(text: &str, stop: &str) -> usize {
    let longest = text.len().min(stop.len() - 1);
    (1..=longest)
        .rev()
        .find(|&n| stop.is_char_boundary(n) && text.as_bytes().ends_with(&stop.as_bytes()[..n]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole text in pieces cut at the places where `cuts` has a bit.
    fn run(stops: &[&str], text: &str, cuts: u32) -> (String, Option<usize>) {
        let mut stream = StopStrings::new(stops.iter().copied()).unwrap();
        let mut out = String::new();
        let mut piece = String::new();
        for (i, c) in text.chars().enumerate() {
            piece.push(c);
            if cuts >> (i % 32) & 1 == 1 {
                out += &stream.push(&std::mem::take(&mut piece));
            }
        }
        out += &stream.push(&piece);
        let stopped = stream.stopped();
        (out + &stream.finish(), stopped)
    }

    #[test]
    fn any_pieces_give_the_same() {
        let cases: [(&[&str], &str, &str, Option<usize>); 9] = [
            (&["###"], "a # b ## c ### d", "a # b ## c ", Some(0)),
            (&["###"], "a # b ## c", "a # b ## c", None),
            (&["\nUser:", "</s>"], "yes.\nUse it</s>\nUser:", "yes.\nUse it", Some(1)),
            // Complete first, though begun later.
            (&["abcd", "bc"], "xabcd", "xa", Some(1)),
            // Both end at once: the longer one.
            (&["c", "abc"], "xabcd", "x", Some(1)),
            (&["aab"], "aaaab", "aa", Some(0)),
            (&["😀é"], "😀😀é", "😀", Some(0)),
            (&[], "text", "text", None),
            (&["é"], "è", "è", None),
        ];
        for (stops, text, want, which) in cases {
            let n = text.chars().count().min(12);
            for cuts in 0..1u32 << n {
                assert_eq!(run(stops, text, cuts), (want.to_owned(), which), "{stops:?} {text:?} {cuts:b}");
            }
        }
    }

    #[test]
    fn only_what_may_be_a_stop_string_is_held() {
        let mut stream = StopStrings::new(["<end>", "nd"]).unwrap();
        assert_eq!(stream.push("abc<"), "abc");
        assert_eq!(stream.push("e"), "");
        assert_eq!(stream.push("x"), "<ex");
        assert_eq!(stream.push("y<e"), "y");
        assert_eq!(stream.push("n"), "");
        assert_eq!(stream.push("d>z"), "<e");
        assert_eq!(stream.stopped(), Some(1));
        assert_eq!(stream.push("more"), "");
        assert_eq!(stream.finish(), "");
        assert_eq!(stream.push("again"), "agai");
        assert_eq!(stream.finish(), "n");
    }

    #[test]
    fn empty_strings_are_refused() {
        let error = StopStrings::new(["a", ""]).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), ("empty_stop_string", "stop string 1 is empty"));
    }
}
