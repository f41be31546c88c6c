//! A small autoregressive model of a series, as the hybrid histogram policy uses for rare functions.
//!
//! Orders up to two, with or without differencing, are fitted by least squares; the one with the least
//! information criterion (AIC) forecasts. There is no moving-average term.

/// Longer series are cut to their end.
const LENGTH_MAX: usize = 60;
/// Shorter ones are forecast by their mean.
const LENGTH_MIN: usize = 5;
const ORDER_MAX: usize = 2;

/// The next value of a series, `None` without any.
pub fn forecast(series: &[f64]) -> Option<f64> {
    let series = &series[series.len().saturating_sub(LENGTH_MAX)..];
    let last = series.last()?;
    let mean = mean(series);
    if series.len() < LENGTH_MIN {
        return Some(mean);
    }
    let steps: Vec<f64> = series.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let plain = (0..=ORDER_MAX).filter_map(|order| Fit::of(series, order));
    let stepped = (0..=ORDER_MAX).filter_map(|order| Fit::of(&steps, order));
    let stepped = stepped.map(|fit| Fit {
        next: last + fit.next,
        ..fit
    });
    let best = plain.chain(stepped).min_by(|a, b| a.criterion.total_cmp(&b.criterion));
    Some(best.map_or(mean, |fit| fit.next))
}

fn mean(series: &[f64]) -> f64 {
    series.iter().sum::<f64>() / count(series.len())
}

#[allow(clippy::cast_precision_loss, reason = "series are short")]
fn count(length: usize) -> f64 {
    length as f64
}

struct Fit {
    criterion: f64,
    next: f64,
}

impl Fit {
    /// Fits `x[t] = c + a1 x[t-1] + ...` by the normal equations.
    fn of(series: &[f64], order: usize) -> Option<Self> {
        let rows: Vec<(Vec<f64>, f64)> = (ORDER_MAX..series.len())
            .map(|at| (regressors(&series[..at], order), series[at]))
            .collect();
        if rows.len() <= order + 2 {
            return None;
        }
        let size = order + 1;
        let mut system = vec![vec![0.0; size + 1]; size];
        for (regressors, value) in &rows {
            for (i, line) in system.iter_mut().enumerate() {
                (0..size).for_each(|j| line[j] += regressors[i] * regressors[j]);
                line[size] += regressors[i] * value;
            }
        }
        let factors = solve(system)?;
        let predict = |regressors: &[f64]| -> f64 { factors.iter().zip(regressors).map(|(a, x)| a * x).sum() };
        let errors: f64 = rows
            .iter()
            .map(|(regressors, value)| (value - predict(regressors)).powi(2))
            .sum();
        let samples = count(rows.len());
        Some(Self {
            criterion: samples * (errors / samples + 1e-9).ln() + 2.0 * count(size),
            next: predict(&regressors(series, order)),
        })
    }
}

/// One, and the last `order` values, the latest first.
fn regressors(before: &[f64], order: usize) -> Vec<f64> {
    std::iter::once(1.0)
        .chain(before.iter().rev().take(order).copied())
        .collect()
}

/// Gauss's elimination of a system whose last column is the right side; `None` if it has no one solution.
fn solve(mut system: Vec<Vec<f64>>) -> Option<Vec<f64>> {
    let size = system.len();
    for pivot in 0..size {
        let best = (pivot..size).max_by(|a, b| system[*a][pivot].abs().total_cmp(&system[*b][pivot].abs()))?;
        system.swap(pivot, best);
        if system[pivot][pivot].abs() < 1e-9 {
            return None;
        }
        let upper = system[pivot].clone();
        for (_, row) in system.iter_mut().enumerate().filter(|(line, _)| *line != pivot) {
            let factor = row[pivot] / upper[pivot];
            row.iter_mut()
                .zip(&upper)
                .for_each(|(value, above)| *value -= factor * above);
        }
    }
    Some((0..size).map(|at| system[at][size] / system[at][at]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_a_line_and_an_alternation_are_continued() {
        let near = |series: &[f64], expected: f64| {
            let next = forecast(series).unwrap();
            assert!((next - expected).abs() < 0.5, "{next} instead of {expected}");
        };
        near(&[300.0; 12], 300.0);
        near(
            &(0..20).map(|step| 100.0 + 10.0 * f64::from(step)).collect::<Vec<_>>(),
            300.0,
        );
        let alternation: Vec<f64> = (0..20).map(|step| if step % 2 == 0 { 400.0 } else { 900.0 }).collect();
        near(&alternation, 400.0);
        assert_eq!(forecast(&[]), None);
        near(&[10.0, 20.0], 15.0);
    }
}
