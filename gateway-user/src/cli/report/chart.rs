//! Stacked bars over time as inline SVG. Draws numbers and fixed words; every name it is given must be escaped already.

use std::fmt::Write as _;

use crate::record::entry::Micros;

const WIDTH: usize = 960;
const HEIGHT: usize = 240;
/// Room for the numbers at the left and the times below.
const LEFT: usize = 56;
const BELOW: usize = 28;
const TOP: usize = 8;

/// One colour of the bars.
pub(super) struct Layer {
    /// Its name, escaped.
    pub(super) name: String,
    /// The class that gives it its colour.
    pub(super) class: &'static str,
    /// How many in each step.
    pub(super) counts: Vec<u64>,
}

/// Bars over the steps that begin at `since`, each `step` microseconds long; `time` writes a moment.
pub(super) fn bars(
    title: &str,
    layers: &[Layer],
    since: Micros,
    step: Micros,
    time: fn(Micros) -> String,
) -> String {
    let steps = layers.iter().map(|layer| layer.counts.len()).max().unwrap_or(0);
    let count = |layer: &Layer, at: usize| layer.counts.get(at).copied().unwrap_or(0);
    let tallest = (0..steps).map(|at| layers.iter().map(|layer| count(layer, at)).sum::<u64>()).max();
    let tallest = tallest.unwrap_or(0);
    if tallest == 0 {
        return "<p class=none>Nothing in this time.</p>".into();
    }
    let scale = Scale::of(tallest);
    let (wide, high) = (WIDTH - LEFT, HEIGHT - TOP - BELOW);
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=img aria-label=\"{title}\"><title>{title}</title>"
    );
    for tick in scale.ticks() {
        let y = TOP + high - scale.height(tick, high);
        let _ = write!(
            svg,
            "<line class=grid x1={LEFT} x2={WIDTH} y1={y} y2={y} /><text class=tick x={} y={} text-anchor=end>{tick}</text>",
            LEFT - 6,
            y + 4,
        );
    }
    for at in 0..steps {
        let x = LEFT + at * wide / steps;
        let bar = ((at + 1) * wide / steps - at * wide / steps).saturating_sub(1).max(1);
        let mut told = String::new();
        let mut drawn = String::new();
        let mut below = 0;
        for layer in layers.iter().filter(|layer| count(layer, at) > 0) {
            let number = count(layer, at);
            // Each layer ends where the sum so far ends, so that rounding never adds up.
            let (from, to) = (scale.height(below, high), scale.height(below + number, high));
            let tall = (to - from).max(1);
            let y = TOP + high - from - tall;
            let _ = write!(drawn, "<rect class={} x={x} y={y} width={bar} height={tall} />", layer.class);
            let _ = write!(told, ", {} {number}", layer.name);
            below += number;
        }
        if !drawn.is_empty() {
            let begins = since.saturating_add(step.saturating_mul(i64::try_from(at).unwrap_or(i64::MAX)));
            let _ = write!(svg, "<g><title>{}{told}</title>{drawn}</g>", time(begins));
        }
    }
    for mark in 0..6 {
        let at = steps * mark / 6;
        let begins = since.saturating_add(step.saturating_mul(i64::try_from(at).unwrap_or(i64::MAX)));
        let _ = write!(
            svg,
            "<text class=tick x={} y={}>{}</text>",
            LEFT + at * wide / steps,
            HEIGHT - 8,
            time(begins)
        );
    }
    svg.push_str("</svg>");
    svg
}

/// A small line of bars for a table cell.
pub(super) fn spark(counts: &[u64]) -> String {
    let tallest = counts.iter().copied().max().unwrap_or(0).max(1);
    let mut svg =
        format!("<svg class=spark viewBox=\"0 0 {} 20\" aria-hidden=true>", counts.len().max(1) * 2);
    for (at, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let tall = usize::try_from(count.saturating_mul(20) / tallest).unwrap_or(20).max(1);
        let _ = write!(svg, "<rect class=allow x={} y={} width=2 height={tall} />", at * 2, 20 - tall);
    }
    svg.push_str("</svg>");
    svg
}

/// From zero to a round number at or above the tallest bar.
struct Scale {
    top: u64,
}

impl Scale {
    fn of(tallest: u64) -> Self {
        let mut unit: u64 = 1;
        while tallest > unit.saturating_mul(10) {
            unit = unit.saturating_mul(10);
        }
        let top = [2, 4, 6, 8, 10].into_iter().map(|times| unit.saturating_mul(times));
        Self { top: top.into_iter().find(|top| *top >= tallest).unwrap_or(tallest) }
    }

    fn ticks(&self) -> [u64; 3] {
        [0, self.top / 2, self.top]
    }

    fn height(&self, count: u64, high: usize) -> usize {
        let high = u128::try_from(high).unwrap_or(0);
        usize::try_from(u128::from(count) * high / u128::from(self.top.max(1))).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(at: Micros) -> String {
        at.to_string()
    }

    #[test]
    fn a_bar_is_as_tall_as_its_share_and_says_its_numbers() {
        let layers = [
            Layer { name: "allow".into(), class: "allow", counts: vec![0, 10] },
            Layer { name: "deny".into(), class: "deny", counts: vec![5, 0] },
        ];
        let svg = bars("Operations", &layers, 0, 60, plain);
        assert!(svg.contains("<title>0, deny 5</title>"), "{svg}");
        assert!(svg.contains("<title>60, allow 10</title>"), "{svg}");
        let high = HEIGHT - TOP - BELOW;
        assert!(svg.contains(&format!("height={high} ")), "the tallest fills the chart: {svg}");
        assert!(svg.contains(&format!("height={} ", high / 2)), "{svg}");
    }

    #[test]
    fn a_time_in_which_nothing_happened_has_no_empty_chart() {
        let layers = [Layer { name: "allow".into(), class: "allow", counts: vec![0, 0] }];
        assert!(bars("Operations", &layers, 0, 60, plain).starts_with("<p"));
        assert!(bars("Operations", &[], 0, 60, plain).starts_with("<p"));
    }

    #[test]
    fn the_largest_numbers_are_drawn_too() {
        let layers = [Layer { name: "allow".into(), class: "allow", counts: vec![u64::MAX / 2, 1] }];
        assert!(bars("Operations", &layers, i64::MAX - 1, i64::MAX, plain).contains("<rect"));
        for tallest in [1, 2, 9, 10, 11, 99, 100, 12_345] {
            let scale = Scale::of(tallest);
            assert!(scale.top >= tallest && scale.top <= tallest * 2 + 2, "{tallest} {}", scale.top);
        }
    }
}
