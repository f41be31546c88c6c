//! Text that is formatted, kept in maps, sorted and parsed again.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

fn parse(line: &str) -> Result<(String, f64, i64), Box<dyn std::error::Error>> {
    let mut fields = line.split(';');
    let name = fields.next().ok_or("no name")?.trim().to_owned();
    let price = fields.next().ok_or("no price")?.parse()?;
    let count = fields.next().ok_or("no count")?.parse()?;
    Ok((name, price, count))
}

/// How often it does its work: the first argument, or once.
fn rounds() -> u32 {
    std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(1)
}

fn main() {
    for _ in 0..rounds() {
        work();
    }
}

fn work() {
    let mut text = String::new();
    for index in 0..1_500_u32 {
        let price = f64::from(index * 37 % 101) / 7.0;
        writeln!(text, "item-{}; {price};{}", index % 90, i64::from(index) - 300).unwrap();
    }
    text.push_str("broken;line\n");
    let mut totals: BTreeMap<String, (f64, i64)> = BTreeMap::new();
    let mut seen: HashMap<String, Vec<i64>> = HashMap::new();
    let mut faults = 0;
    for line in text.lines() {
        match parse(&line.replace("; ", ";")) {
            Ok((name, price, count)) => {
                let total = totals.entry(name.clone()).or_default();
                total.0 += price;
                total.1 += count;
                seen.entry(name).or_default().push(count);
            }
            Err(error) => {
                faults += 1;
                println!("{error}");
            }
        }
    }
    let mut largest: Vec<_> = seen.into_iter().map(|(name, counts)| (counts.iter().max().copied(), name)).collect();
    largest.sort();
    println!("{faults} {:?}", &largest[..5]);
    for (name, (price, count)) in totals.iter().take(20) {
        println!("{name}: {price:.6} {count}");
    }
}
