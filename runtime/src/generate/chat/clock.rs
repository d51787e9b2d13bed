//! Dates for `strftime_now`. A calendar in a few lines rather than a library of time zones in every page.

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// Seconds since 1970, where there is a clock to ask.
pub(super) fn now() -> Option<i64> {
    // In a browser the standard library's clock panics.
    #[cfg(target_arch = "wasm32")]
    return None;
    #[cfg(not(target_arch = "wasm32"))]
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok().and_then(|d| d.as_secs().try_into().ok())
}

/// Year, month (1 to 12) and day of a day counted from 1970-01-01: Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms", `civil_from_days`.
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let of_era = z.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

/// `strftime` of the C locale for the codes that templates use; the error is a code that is not known.
pub(super) fn strftime(now: i64, format: &str) -> Result<String, char> {
    let days = now.div_euclid(86_400);
    let (year, month, day) = civil(days);
    let second = now.rem_euclid(86_400);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let (name, weekday) = (MONTHS[(month - 1) as usize], DAYS[(days + 4).rem_euclid(7) as usize]);
    let twelve = (hour + 11) % 12 + 1;
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut code = chars.next().ok_or('%')?;
        // GNU's "without padding".
        let bare = code == '-';
        if bare {
            code = chars.next().ok_or('-')?;
        }
        let two = |n: i64| if bare { n.to_string() } else { format!("{n:02}") };
        out += &match code {
            'Y' => year.to_string(),
            'y' => two(year.rem_euclid(100)),
            'm' => two(month),
            'd' => two(day),
            'e' => {
                if bare {
                    day.to_string()
                } else {
                    format!("{day:2}")
                }
            }
            'j' => {
                // Days since the last one of another year.
                let of_year = (1..=366).find(|n| civil(days - n).0 != year).unwrap_or(366);
                if bare { of_year.to_string() } else { format!("{of_year:03}") }
            }
            'B' => name.to_owned(),
            'b' | 'h' => name[..3].to_owned(),
            'A' => weekday.to_owned(),
            'a' => weekday[..3].to_owned(),
            'H' => two(hour),
            'I' => two(twelve),
            'M' => two(minute),
            'S' => two(second % 60),
            'p' => (if hour < 12 { "AM" } else { "PM" }).to_owned(),
            'F' => format!("{year}-{month:02}-{day:02}"),
            'T' => format!("{hour:02}:{minute:02}:{:02}", second % 60),
            '%' => "%".to_owned(),
            other => return Err(other),
        };
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_as_c_writes_them() {
        // Checked with `date -u -d @N`.
        let at = |now, format| strftime(now, format).unwrap();
        assert_eq!(at(0, "%Y-%m-%d %H:%M:%S %a %j"), "1970-01-01 00:00:00 Thu 001");
        assert_eq!(at(951_782_400, "%d %b %Y, %A, day %j"), "29 Feb 2000, Tuesday, day 060");
        assert_eq!(at(1_735_689_599, "%F %T %I %p %y"), "2024-12-31 23:59:59 11 PM 24");
        assert_eq!(at(1_735_689_599, "%j"), "366");
        assert_eq!(at(1_725_321_845, "%-d %B, %e|%-I:%M%%"), "3 September,  3|12:04%");
        assert_eq!(at(-1, "%F %T"), "1969-12-31 23:59:59");
        assert_eq!(at(4_107_542_400, "%F %a"), "2100-03-01 Mon");
        assert_eq!(strftime(0, "%Q"), Err('Q'));
        assert_eq!(strftime(0, "a%"), Err('%'));
    }
}
