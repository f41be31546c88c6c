//! Traces in the format of the public Azure Functions 2019 data set.
//!
//! A folder has one file a day with counts a minute (`invocations_per_function_md.anon.d01.csv`:
//! `HashOwner,HashApp,HashFunction,Trigger,1,...,1440`), and may have two more:
//! `function_durations_percentiles.anon.d01.csv`, whose column `Average` is in milliseconds, and
//! `app_memory_percentiles.anon.d01.csv`, whose column `AverageAllocatedMb` is of a whole app.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use bowline_capacity::forecast::Trigger;
use bowline_capacity::keeper::{Kept, MEMORY_UNIT};
use bowline_foundation::units::Mebibytes;

/// Minutes of a day.
pub const DAY: u32 = 1440;
/// More days than these are refused: the minutes are counted in 32 bits, and memory is not endless.
pub const DAYS_MAX: u32 = 366;
/// A count a minute above this is refused.
pub const COUNT_MAX: u32 = 100_000_000;

const INVOCATIONS: &str = "invocations_per_function_md.anon.d";
const DURATIONS: &str = "function_durations_percentiles.anon.d";
const MEMORY: &str = "app_memory_percentiles.anon.d";

/// Calls of many functions over some days.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    pub name: String,
    pub days: u32,
    pub functions: Vec<Function>,
}

/// One function of a trace.
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    pub kept: Kept,
    /// The minutes with calls, ascending.
    pub minutes: Vec<u32>,
    pub invocations: u64,
    /// How many minutes after the one of its call a run lasts on.
    pub runs_on: u32,
}

impl Function {
    /// A function of the usual size whose runs are short.
    pub fn new(trigger: Trigger) -> Self {
        Self {
            kept: Kept {
                trigger,
                ..Kept::default()
            },
            minutes: Vec::new(),
            invocations: 0,
            runs_on: 0,
        }
    }

    /// Its size, in units of 128 MiB.
    pub fn units(&self) -> f64 {
        f64::from(self.kept.memory.0.max(1)) / f64::from(MEMORY_UNIT.0)
    }

    /// How many minutes lie idle between the runs of two calls that follow each other.
    pub fn idle_between(&self, earlier: u32, later: u32) -> u32 {
        (later - earlier - 1).saturating_sub(self.runs_on)
    }
}

impl Trace {
    pub fn minutes(&self) -> u32 {
        self.days * DAY
    }

    pub fn invocations(&self) -> u64 {
        self.functions.iter().map(|function| function.invocations).sum()
    }

    /// Reads the files of a folder.
    ///
    /// # Errors
    /// If there are none, or one cannot be read or understood; the error names the file and the line.
    pub fn read(folder: &Path) -> Result<Self> {
        let mut builder = Builder::default();
        let days = files(folder, INVOCATIONS)?;
        ensure!(
            !days.is_empty(),
            "`{}` has no files `{INVOCATIONS}NN.csv`",
            folder.display()
        );
        for (day, path) in follow_on(&days)?.zip(&days) {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
            builder
                .invocations(day, &text)
                .with_context(|| format!("cannot understand `{}`", path.display()))?;
        }
        for (prefix, read) in [
            (
                DURATIONS,
                Builder::durations as fn(&mut Builder, &str) -> Result<(), TraceError>,
            ),
            (MEMORY, Builder::memory),
        ] {
            for path in files(folder, prefix)? {
                let text =
                    std::fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
                read(&mut builder, &text).with_context(|| format!("cannot understand `{}`", path.display()))?;
            }
        }
        let mut trace = builder.finish();
        trace.name = folder.display().to_string();
        Ok(trace)
    }
}

/// The days of the files of counts, from nought on. The first may have any number; a day that is missing
/// would move all after it, weekends among them, and is refused.
fn follow_on(days: &[std::path::PathBuf]) -> Result<impl Iterator<Item = u32> + use<>> {
    let mut numbers = Vec::new();
    for path in days {
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let number = name
            .as_deref()
            .and_then(|name| name.strip_prefix(INVOCATIONS)?.parse::<u32>().ok());
        numbers.push(number.with_context(|| format!("`{}` has no day in its name", path.display()))?);
    }
    for (before, after) in numbers.iter().zip(&numbers[1..]) {
        let expected = before.saturating_add(1);
        ensure!(
            *after == expected,
            "day {expected} is missing: after `{INVOCATIONS}{before:02}.csv` comes `{INVOCATIONS}{after:02}.csv`"
        );
    }
    Ok(0..u32::try_from(numbers.len()).unwrap_or(u32::MAX))
}

fn files(folder: &Path, prefix: &str) -> Result<Vec<std::path::PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read `{}`", folder.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        if name.is_some_and(|name| name.starts_with(prefix) && name.ends_with(".csv")) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// A line of a trace that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    #[error("line {line}: expected {expected} columns, found {found}")]
    Columns { line: usize, expected: usize, found: usize },
    #[error("line {line}: `{text}` is no count up to {COUNT_MAX}")]
    Count { line: usize, text: String },
    #[error("line {line}: `{text}` is no amount")]
    Amount { line: usize, text: String },
    #[error("the heading has no column `{0}`")]
    NoColumn(&'static str),
    #[error("there are more than {DAYS_MAX} days")]
    TooLong,
}

/// Puts a trace together from the texts of its files, day by day.
#[derive(Debug, Default)]
pub struct Builder {
    days: u32,
    functions: Vec<Function>,
    /// Owner, app and function to the function's place.
    places: HashMap<[String; 3], usize>,
    /// Owner and app to the places of its functions.
    apps: HashMap<[String; 2], Vec<usize>>,
}

impl Builder {
    /// Takes the counts of a day, of which the first is nought.
    pub fn invocations(&mut self, day: u32, text: &str) -> Result<(), TraceError> {
        if day >= DAYS_MAX {
            return Err(TraceError::TooLong);
        }
        self.days = self.days.max(day + 1);
        for (line, row) in rows(text) {
            let cells: Vec<&str> = row.split(',').collect();
            let expected = 4 + DAY as usize;
            if cells.len() != expected {
                let found = cells.len();
                return Err(TraceError::Columns { line, expected, found });
            }
            let place = self.place([cells[0], cells[1], cells[2]], cells[3]);
            for (minute, text) in (day * DAY..).zip(&cells[4..]) {
                let count = count(text).ok_or_else(|| TraceError::Count {
                    line,
                    text: shortened(text),
                })?;
                let function = &mut self.functions[place];
                // Of a function that stands twice in one day's file, the further line counts only where it
                // goes on after the last minute so far.
                if count > 0 && function.minutes.last().is_none_or(|last| *last < minute) {
                    function.minutes.push(minute);
                    function.invocations += u64::from(count);
                }
            }
        }
        Ok(())
    }

    fn place(&mut self, names: [&str; 3], trigger: &str) -> usize {
        let key = names.map(str::to_owned);
        if let Some(place) = self.places.get(&key) {
            return *place;
        }
        let place = self.functions.len();
        let is_timer = trigger.eq_ignore_ascii_case("timer");
        self.functions
            .push(Function::new(if is_timer { Trigger::Timer } else { Trigger::Other }));
        let [owner, app, _] = key.clone();
        self.apps.entry([owner, app]).or_default().push(place);
        self.places.insert(key, place);
        place
    }

    /// Takes a day's durations; functions without counts are passed over.
    pub fn durations(&mut self, text: &str) -> Result<(), TraceError> {
        let average = column(text, "Average")?;
        for (line, row) in rows(text) {
            let cells: Vec<&str> = row.split(',').collect();
            let milliseconds = amount(&cells, average, line)?;
            let Some(key) = cells.first_chunk::<3>() else { continue };
            if let Some(place) = self.places.get(&key.map(str::to_owned)) {
                self.functions[*place].runs_on = whole(milliseconds / 60_000.0).min(DAY);
            }
        }
        Ok(())
    }

    /// Takes a day's memory of apps, which their functions share evenly.
    pub fn memory(&mut self, text: &str) -> Result<(), TraceError> {
        let average = column(text, "AverageAllocatedMb")?;
        for (line, row) in rows(text) {
            let cells: Vec<&str> = row.split(',').collect();
            let megabytes = amount(&cells, average, line)?;
            let Some(key) = cells.first_chunk::<2>() else { continue };
            let Some(places) = self.apps.get(&key.map(str::to_owned)) else {
                continue;
            };
            let each = whole(megabytes) / u32::try_from(places.len()).unwrap_or(u32::MAX);
            for place in places {
                self.functions[*place].kept.memory = Mebibytes(each.max(1));
            }
        }
        Ok(())
    }

    pub fn finish(self) -> Trace {
        Trace {
            name: String::new(),
            days: self.days,
            functions: self.functions,
        }
    }
}

/// The lines below the heading that are not empty, with their numbers.
fn rows(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().skip(1);
    lines
        .map(|(index, line)| (index + 1, line.trim_end()))
        .filter(|(_, line)| !line.is_empty())
}

fn column(text: &str, name: &'static str) -> Result<usize, TraceError> {
    let heading = text.lines().next().unwrap_or_default();
    let mut columns = heading.trim_end().split(',');
    columns
        .position(|column| column == name)
        .ok_or(TraceError::NoColumn(name))
}

fn amount(cells: &[&str], column: usize, line: usize) -> Result<f64, TraceError> {
    let text = cells.get(column).copied().unwrap_or_default();
    let amount = text
        .parse::<f64>()
        .ok()
        .filter(|amount| amount.is_finite() && *amount >= 0.0);
    amount.ok_or_else(|| TraceError::Amount {
        line,
        text: shortened(text),
    })
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "bounded before, and a fraction is meant to go"
)]
fn whole(amount: f64) -> u32 {
    amount.clamp(0.0, 1e9) as u32
}

fn count(text: &str) -> Option<u32> {
    text.parse().ok().filter(|count| *count <= COUNT_MAX)
}

fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(rows: &[(&str, &[(usize, u32)])]) -> String {
        let minutes = || (1..=DAY).map(|minute| minute.to_string());
        let mut text = format!(
            "HashOwner,HashApp,HashFunction,Trigger,{}\n",
            minutes().collect::<Vec<_>>().join(",")
        );
        for (names, calls) in rows {
            let mut counts = vec![0; DAY as usize];
            calls.iter().for_each(|(minute, count)| counts[*minute] = *count);
            let counts: Vec<String> = counts.iter().map(u32::to_string).collect();
            text += &format!("{names},{}\n", counts.join(","));
        }
        text
    }

    #[test]
    fn days_are_joined_and_sizes_and_durations_taken() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write(
            "invocations_per_function_md.anon.d01.csv",
            &day(&[("o,a,f,timer", &[(0, 1), (1439, 2)]), ("o,a,g,http", &[(7, 5)])]),
        );
        write(
            "invocations_per_function_md.anon.d02.csv",
            &day(&[("o,a,f,timer", &[(3, 4)])]),
        );
        write(
            "function_durations_percentiles.anon.d01.csv",
            "HashOwner,HashApp,HashFunction,Average,Count\no,a,g,150000,3\no,x,unknown,1,1\n",
        );
        write(
            "app_memory_percentiles.anon.d01.csv",
            "HashOwner,HashApp,SampleCount,AverageAllocatedMb\no,a,10,512\n",
        );
        let trace = Trace::read(folder.path()).unwrap();
        assert_eq!((trace.days, trace.invocations()), (2, 12));
        let [f, g] = &trace.functions[..] else {
            panic!("two functions")
        };
        assert_eq!(
            (f.minutes.clone(), f.kept.trigger),
            (vec![0, 1439, 1443], Trigger::Timer)
        );
        assert_eq!((g.runs_on, g.kept.memory), (2, Mebibytes(256)));
        assert_eq!((f.idle_between(0, 10), g.idle_between(0, 10)), (9, 7));
    }

    #[test]
    fn a_missing_day_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let write = |number: u32| {
            let name = format!("{INVOCATIONS}{number:02}.csv");
            std::fs::write(folder.path().join(name), day(&[("o,a,f,timer", &[(3, 1)])])).unwrap();
        };
        [7, 8].into_iter().for_each(write);
        assert_eq!(
            Trace::read(folder.path()).unwrap().days,
            2,
            "the first may have any number"
        );
        write(10);
        let error = Trace::read(folder.path()).unwrap_err().to_string();
        assert!(error.starts_with("day 9 is missing"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let mut builder = Builder::default();
        let bad = day(&[("o,a,f,timer", &[])]).replacen(",0,", ",x,", 1);
        let error = builder.invocations(0, &bad).unwrap_err();
        assert_eq!(error.to_string(), "line 2: `x` is no count up to 100000000");
        let error = builder.invocations(0, "heading\no,a,f,http,1\n").unwrap_err();
        assert_eq!(error.to_string(), "line 2: expected 1444 columns, found 5");
        assert_eq!(
            builder.memory("HashOwner\n"),
            Err(TraceError::NoColumn("AverageAllocatedMb"))
        );
        assert_eq!(builder.invocations(DAYS_MAX, ""), Err(TraceError::TooLong));
        assert!(Trace::read(tempfile::tempdir().unwrap().path()).is_err());
    }
}
