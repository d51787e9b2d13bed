//! The `Range` header (RFC 9110, section 14).

/// Which part of a file a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Range {
    /// All of it: there is no such header, or one that a server may ignore.
    Whole,
    /// The bytes from `first` to `last`, both included.
    Part { first: u64, last: u64 },
    /// Nothing that the file has.
    Unsatisfiable,
}

/// Reads a `Range` header for a file of `length` bytes. Several ranges at once and units other than bytes
/// are ignored, as the RFC allows; so is a header that does not parse.
pub(super) fn parse(header: Option<&str>, length: u64) -> Range {
    let Some(spec) = header.and_then(|header| header.trim().strip_prefix("bytes=")) else {
        return Range::Whole;
    };
    let Some((first, last)) = spec.trim().split_once('-') else {
        return Range::Whole;
    };
    match (number(first), number(last)) {
        // bytes=100-199, which may reach beyond the end
        (Some(first), Some(last)) if first <= last => part(first, last, length),
        // bytes=100-
        (Some(first), None) if last.trim().is_empty() => part(first, u64::MAX, length),
        // bytes=-100: the last 100
        (None, Some(count)) if first.trim().is_empty() => {
            if count == 0 || length == 0 {
                Range::Unsatisfiable
            } else {
                part(length.saturating_sub(count), u64::MAX, length)
            }
        }
        _ => Range::Whole,
    }
}

fn part(first: u64, last: u64, length: u64) -> Range {
    if first >= length {
        return Range::Unsatisfiable;
    }
    Range::Part { first, last: last.min(length - 1) }
}

/// Digits only: `parse` alone would take a sign.
fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        assert_eq!(parse(Some("bytes=0-0"), 10), Range::Part { first: 0, last: 0 });
        assert_eq!(parse(Some("bytes=2-5"), 10), Range::Part { first: 2, last: 5 });
        assert_eq!(parse(Some("bytes=2-"), 10), Range::Part { first: 2, last: 9 });
        assert_eq!(parse(Some("bytes=8-99"), 10), Range::Part { first: 8, last: 9 });
        assert_eq!(parse(Some("bytes=-3"), 10), Range::Part { first: 7, last: 9 });
        assert_eq!(parse(Some("bytes=-30"), 10), Range::Part { first: 0, last: 9 });
    }

    #[test]
    fn outside_the_file() {
        assert_eq!(parse(Some("bytes=10-"), 10), Range::Unsatisfiable);
        assert_eq!(parse(Some("bytes=-0"), 10), Range::Unsatisfiable);
        assert_eq!(parse(Some("bytes=0-"), 0), Range::Unsatisfiable);
        assert_eq!(parse(Some("bytes=-1"), 0), Range::Unsatisfiable);
    }

    #[test]
    fn ignored() {
        for header in [
            None,
            Some(""),
            Some("lines=1-2"),
            Some("bytes=5-2"),
            Some("bytes=-"),
            Some("bytes=a-b"),
            Some("bytes=+1-2"),
            Some("bytes=0-1,4-5"),
            Some("bytes=99999999999999999999-"),
        ] {
            assert_eq!(parse(header, 10), Range::Whole, "{header:?}");
        }
    }
}
