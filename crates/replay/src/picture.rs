//! The picture of a comparison: cold starts over wasted memory time, as SVG.

use std::fmt::Write as _;

use crate::compare::Comparison;
use crate::score::{Curve, Score};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 520.0;
/// Room for the axes' texts.
const MARGIN: f64 = 64.0;
/// Both axes end here, as multiples of the ten-minute keep-alive.
const AXIS_MAX: f64 = 2.5;

/// Draws the mean over all traces; the fixed keep-alive of ten minutes is one on both axes.
pub fn draw(comparisons: &[Comparison]) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    axes(&mut svg);
    let ours = mean_curve(comparisons, |comparison| comparison.ours.clone());
    let best = mean_curve(comparisons, |comparison| comparison.clairvoyant.clone());
    curve(&mut svg, &best, "#999999", "clairvoyant keep-alive", 0);
    curve(&mut svg, &ours, "#0a6cbd", "bowline, by price", 1);
    let fixed = mean_points(comparisons, |comparison| &comparison.fixed);
    curve(&mut svg, &fixed, "#c0392b", "fixed keep-alive, by minutes", 2);
    points(&mut svg, &fixed, "#c0392b");
    let hybrid = mean_points(comparisons, |comparison| &comparison.hybrid);
    curve(&mut svg, &hybrid, "#27803b", "hybrid histogram, by range", 3);
    points(&mut svg, &hybrid, "#27803b");
    svg += "</svg>\n";
    svg
}

fn x(value: f64) -> f64 {
    MARGIN + value / AXIS_MAX * (WIDTH - 2.0 * MARGIN)
}

fn y(value: f64) -> f64 {
    HEIGHT - MARGIN - value / AXIS_MAX * (HEIGHT - 2.0 * MARGIN)
}

fn axes(svg: &mut String) {
    let (left, bottom, right, top) = (x(0.0), y(0.0), x(AXIS_MAX), y(AXIS_MAX));
    let mut line = |from: (f64, f64), to: (f64, f64), colour: &str| {
        let _ = writeln!(
            svg,
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\"/>",
            from.0, from.1, to.0, to.1
        );
    };
    line((left, bottom), (right, bottom), "black");
    line((left, bottom), (left, top), "black");
    line((x(1.0), bottom), (x(1.0), top), "#dddddd");
    line((left, y(1.0)), (right, y(1.0)), "#dddddd");
    line((left, y(0.5)), (x(1.0), y(0.5)), "#eeeeee");
    for tick in [0.5, 1.0, 1.5, 2.0, 2.5] {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{tick}</text>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{tick}</text>",
            x(tick),
            bottom + 18.0,
            left - 8.0,
            y(tick) + 4.0
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">wasted memory time, by that of ten minutes' keep-alive</text>\n\
         <text transform=\"translate(18 {:.1}) rotate(-90)\" text-anchor=\"middle\">cold starts, by those of ten \
         minutes' keep-alive</text>",
        f64::midpoint(left, right),
        HEIGHT - 18.0,
        f64::midpoint(top, bottom)
    );
}

fn curve(svg: &mut String, points: &[(f64, f64)], colour: &str, name: &str, place: u8) {
    let shown: Vec<String> = points
        .iter()
        .filter(|(memory, cold)| *memory <= AXIS_MAX && *cold <= AXIS_MAX)
        .map(|(memory, cold)| format!("{:.1},{:.1}", x(*memory), y(*cold)))
        .collect();
    let top = 30.0 + 20.0 * f64::from(place);
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n\
         <line x1=\"500\" y1=\"{top}\" x2=\"530\" y2=\"{top}\" stroke=\"{colour}\" stroke-width=\"2\"/>\n\
         <text x=\"538\" y=\"{}\">{name}</text>",
        shown.join(" "),
        top + 4.0
    );
}

fn points(svg: &mut String, points: &[(f64, f64)], colour: &str) {
    let within = points
        .iter()
        .filter(|(memory, cold)| *memory <= AXIS_MAX && *cold <= AXIS_MAX);
    for (memory, cold) in within {
        let _ = writeln!(
            svg,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"{colour}\"/>",
            x(*memory),
            y(*cold)
        );
    }
}

/// The mean of the traces' curves, read at the same multiples of the ten minutes' memory.
fn mean_curve(comparisons: &[Comparison], of: impl Fn(&Comparison) -> Curve) -> Vec<(f64, f64)> {
    let steps = (1..=100).map(|step| f64::from(step) / 100.0 * AXIS_MAX);
    let at = |memory: f64| {
        let colds = comparisons.iter().map(|comparison| {
            let ten = comparison.ten_minutes();
            let score = of(comparison).at_waste(memory * ten.wasted_minutes)?;
            Some(score.cold / ten.cold)
        });
        let colds: Option<Vec<f64>> = colds.collect();
        colds.map(|colds| (memory, mean(&colds)))
    };
    steps.filter_map(at).collect()
}

/// The means of the traces' points, setting by setting.
fn mean_points(comparisons: &[Comparison], of: impl Fn(&Comparison) -> &Vec<Score>) -> Vec<(f64, f64)> {
    let settings = comparisons.first().map_or(0, |first| of(first).len());
    let by = |place: usize, axis: fn(&Score) -> f64| {
        let shares = comparisons
            .iter()
            .map(|comparison| axis(&of(comparison)[place]) / axis(comparison.ten_minutes()));
        mean(&shares.collect::<Vec<_>>())
    };
    (0..settings)
        .map(|place| (by(place, |score| score.wasted_minutes), by(place, |score| score.cold)))
        .collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / crate::score::to_f64(values.len() as u64)
}
