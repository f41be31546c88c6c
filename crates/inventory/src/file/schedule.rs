//! Hours at which servers of a file's configuration are to wait for whoever needs one: what its user expects, declared.
//!
//! A window belongs to the day on which it begins, by the clocks of its zone: one that ends no later than it begins ends on the
//! next day. Where clocks are put on, a moment that does not exist is the one that they show instead.

use std::ops::Range;

use bowline_foundation::clock::Timestamp;
use jiff::civil::{self, Weekday};
use jiff::tz::TimeZone;
use serde::Deserialize;
use toml::Spanned;

/// Servers of one configuration that wait, at most.
pub const SERVERS_MAX: u32 = 4;

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl Day {
    fn weekday(self) -> Weekday {
        match self {
            Self::Mon => Weekday::Monday,
            Self::Tue => Weekday::Tuesday,
            Self::Wed => Weekday::Wednesday,
            Self::Thu => Weekday::Thursday,
            Self::Fri => Weekday::Friday,
            Self::Sat => Weekday::Saturday,
            Self::Sun => Weekday::Sunday,
        }
    }
}

/// How many servers wait between two times of some days, as a file says it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Every day if missing.
    pub days: Option<Spanned<Vec<Day>>>,
    /// `08:30` or `08:30:15`, say.
    pub from: Spanned<String>,
    pub to: Spanned<String>,
    /// A name of the time zone database; UTC if missing.
    pub zone: Option<Spanned<String>>,
    pub servers: Spanned<u32>,
}

/// A window that was checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    days: Vec<Day>,
    from: civil::Time,
    to: civil::Time,
    zone: TimeZone,
    servers: u32,
}

/// Where a fault is, and what is wrong.
type Fault = (Range<usize>, String);

impl Window {
    /// What it means, or what is wrong with it.
    pub fn read(&self) -> Result<Schedule, Fault> {
        let zone = match &self.zone {
            None => TimeZone::UTC,
            Some(name) => TimeZone::get(name.get_ref()).map_err(|_| {
                let text = format!(
                    "this machine knows no time zone `{}`: say one of its database, `Europe/Berlin` say",
                    name.get_ref()
                );
                (name.span(), text)
            })?,
        };
        let (from, to) = (time(&self.from)?, time(&self.to)?);
        if from == to {
            let text = format!(
                "it would last from {} until the same time: say another one",
                self.from.get_ref()
            );
            return Err((self.to.span(), text));
        }
        let days = self.days.as_ref().map(|days| (days.span(), days.get_ref().clone()));
        if let Some((span, days)) = &days
            && days.is_empty()
        {
            return Err((
                span.clone(),
                "on none of the days: leave `days` out for every day".to_owned(),
            ));
        }
        let servers = *self.servers.get_ref();
        if !(1..=SERVERS_MAX).contains(&servers) {
            let text = format!("servers must be from 1 to {SERVERS_MAX}, not {servers}");
            return Err((self.servers.span(), text));
        }
        Ok(Schedule {
            days: days.map(|(_, days)| days).unwrap_or_default(),
            from,
            to,
            zone,
            servers,
        })
    }
}

/// A time of the day, to the minute or the second.
fn time(given: &Spanned<String>) -> Result<civil::Time, Fault> {
    let text = given.get_ref();
    let number = |digits: &str| {
        let is_number = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| digits.parse::<i8>().ok())?
    };
    let parts: Option<Vec<i8>> = text.split(':').map(number).collect();
    let read = parts.and_then(|parts| match parts[..] {
        [hour, minute] => civil::Time::new(hour, minute, 0, 0).ok(),
        [hour, minute, second] => civil::Time::new(hour, minute, second, 0).ok(),
        _ => None,
    });
    read.ok_or_else(|| {
        (
            given.span(),
            format!("`{text}` is no time of the day: expected one like 08:30 or 08:30:15"),
        )
    })
}

impl Schedule {
    /// How many servers are to wait at a moment.
    pub fn servers_at(&self, now: Timestamp) -> u32 {
        if self.holds_at(now).unwrap_or(false) {
            self.servers
        } else {
            0
        }
    }

    /// `None` where the calendar ends.
    fn holds_at(&self, now: Timestamp) -> Option<bool> {
        let moment = jiff::Timestamp::from_microsecond(i64::try_from(now.as_micros()).ok()?).ok()?;
        let today = moment.to_zoned(self.zone.clone()).date();
        for date in [Some(today), today.yesterday().ok()].into_iter().flatten() {
            let begins = date.to_datetime(self.from).to_zoned(self.zone.clone()).ok()?;
            let last = if self.to > self.from {
                date
            } else {
                date.tomorrow().ok()?
            };
            let ends = last.to_datetime(self.to).to_zoned(self.zone.clone()).ok()?;
            let is_due = self.days.is_empty() || self.days.iter().any(|day| day.weekday() == date.weekday());
            if is_due && begins.timestamp() <= moment && moment < ends.timestamp() {
                return Some(true);
            }
        }
        Some(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct One {
        schedule: Vec<Window>,
    }

    fn schedule(text: &str) -> Result<Schedule, Fault> {
        let one: One = toml::from_str(&format!("[[schedule]]\n{text}")).unwrap();
        one.schedule[0].read()
    }

    fn at(text: &str) -> Timestamp {
        let moment: jiff::Timestamp = text.parse().unwrap();
        Timestamp::from_micros(u64::try_from(moment.as_microsecond()).unwrap())
    }

    fn check(text: &str, moments: &[(&str, u32)]) {
        let schedule = schedule(text).unwrap();
        for (moment, servers) in moments {
            assert_eq!(schedule.servers_at(at(moment)), *servers, "{moment} of {text}");
        }
    }

    #[test]
    fn a_window_holds_on_its_days_and_between_its_times() {
        check(
            "days = [\"mon\", \"tue\"]\nfrom = \"08:00\"\nto = \"18:00\"\nservers = 2",
            &[
                ("2026-11-30T07:59:59Z", 0),
                ("2026-11-30T08:00:00Z", 2),
                ("2026-11-30T17:59:59Z", 2),
                ("2026-11-30T18:00:00Z", 0),
                ("2026-12-01T09:00:00Z", 2),
                // A Wednesday.
                ("2026-12-02T09:00:00Z", 0),
            ],
        );
    }

    #[test]
    fn its_times_may_have_seconds() {
        check(
            "from = \"08:00:15\"\nto = \"08:00:17\"\nservers = 2",
            &[
                ("2026-11-30T08:00:14Z", 0),
                ("2026-11-30T08:00:15Z", 2),
                ("2026-11-30T08:00:16.9Z", 2),
                ("2026-11-30T08:00:17Z", 0),
            ],
        );
    }

    #[test]
    fn one_that_ends_before_it_begins_ends_on_the_next_day() {
        check(
            "days = [\"sun\"]\nfrom = \"22:00\"\nto = \"02:00\"\nservers = 1",
            &[
                ("2026-11-29T21:59:00Z", 0),
                ("2026-11-29T22:00:00Z", 1),
                ("2026-11-30T01:59:00Z", 1),
                ("2026-11-30T02:00:00Z", 0),
                ("2026-11-30T23:00:00Z", 0),
                ("2026-11-29T01:00:00Z", 0),
            ],
        );
    }

    #[test]
    fn the_clocks_are_those_of_its_zone() {
        let text = "from = \"08:00\"\nto = \"09:00\"\nzone = \"Europe/Berlin\"\nservers = 3";
        check(
            text,
            &[
                ("2026-11-30T07:00:00Z", 3),
                ("2026-11-30T08:00:00Z", 0),
                // In summer an hour earlier.
                ("2026-07-01T06:00:00Z", 3),
                ("2026-07-01T07:00:00Z", 0),
            ],
        );
        // 02:30 does not exist on the day on which clocks are put on.
        check(
            "from = \"02:30\"\nto = \"04:00\"\nzone = \"Europe/Berlin\"\nservers = 1",
            &[
                ("2026-03-29T01:29:00Z", 0),
                ("2026-03-29T01:30:00Z", 1),
                ("2026-03-29T02:00:00Z", 0),
            ],
        );
    }

    #[test]
    fn what_is_no_window_is_refused() {
        for (text, says) in [
            ("from = \"08:00:61\"\nto = \"09:00\"\nservers = 1", "no time of the day"),
            (
                "from = \"08:00:00:00\"\nto = \"09:00\"\nservers = 1",
                "no time of the day",
            ),
            ("from = \"8:00\"\nto = \"09:00\"\nservers = 1", "no time of the day"),
            ("from = \"08:00\"\nto = \"24:00\"\nservers = 1", "no time of the day"),
            ("from = \"08:00\"\nto = \"+1:00\"\nservers = 1", "no time of the day"),
            ("from = \"08:00\"\nto = \"08:00\"\nservers = 1", "the same time"),
            ("from = \"08:00\"\nto = \"09:00\"\nservers = 5", "from 1 to 4"),
            (
                "days = []\nfrom = \"08:00\"\nto = \"09:00\"\nservers = 1",
                "none of the days",
            ),
            (
                "from = \"08:00\"\nto = \"09:00\"\nzone = \"Mars/Tharsis\"\nservers = 1",
                "no time zone",
            ),
        ] {
            let (_, reason) = schedule(text).unwrap_err();
            assert!(reason.contains(says), "{text}: {reason}");
        }
    }
}
