//! [`Metrics`]: numbers in the text format of Prometheus, 0.0.4.
//!
//! No crate writes it: those there are count by themselves, or write OpenMetrics, which `promtool
//! check metrics` does not read; and the format is a line for each number.

use std::fmt::{Display, Write};

use crate::handoff::histogram::HistogramCounts;

/// The type of the text.
pub const TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What every name begins with.
const PREFIX: &str = "nat64handoff_";
/// A text with metrics.
#[derive(Debug, Default)]
pub struct Metrics(String);

impl Metrics {
    /// Says what the values that follow are.
    pub fn begin(&mut self, name: &str, kind: &str, help: &str) {
        let help = help.trim().replace('\\', "\\\\").replace('\n', " ");
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} {kind}");
    }

    /// One value, after [`Self::begin`].
    pub fn value(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.0, "{PREFIX}{name}");
        if !labels.is_empty() {
            let quoted =
                |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let labels = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", quoted(value)));
            let _ = write!(self.0, "{{{}}}", labels.collect::<Vec<_>>().join(","));
        }
        let _ = writeln!(self.0, " {value}");
    }

    /// What may rise and fall.
    pub fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.begin(name, "gauge", help);
        self.value(name, &[], value);
    }

    /// What rises.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.begin(name, "counter", help);
        self.value(name, &[], value);
    }

    /// How often which sizes occurred. `unit`: what one of the counted numbers is worth.
    pub fn histogram(
        &mut self,
        name: &str,
        help: &str,
        bounds: &[usize],
        unit: f64,
        of: &HistogramCounts,
    ) {
        self.begin(name, "histogram", help);
        let bucket = format!("{name}_bucket");
        for &bound in bounds {
            let below: u64 = of.buckets[..=bound].iter().sum();
            let bound = (1_u64 << bound) as f64 * unit;
            self.value(&bucket, &[("le", &bound.to_string())], below);
        }
        self.value(&bucket, &[("le", "+Inf")], of.total());
        self.value(&format!("{name}_sum"), &[], of.sum as f64 * unit);
        self.value(&format!("{name}_count"), &[], of.total());
    }

    /// All that was written.
    pub fn into_text(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_has_all_that_are_smaller_in_each_bucket() {
        let mut of = HistogramCounts { sum: 7, ..HistogramCounts::default() };
        (of.buckets[0], of.buckets[2], of.buckets[20]) = (1, 2, 4);
        let mut metrics = Metrics::default();
        metrics.histogram("x", "What it is.\nAnd more.", &[0, 2], 0.5, &of);
        assert_eq!(
            metrics.0,
            "# HELP nat64handoff_x What it is. And more.\n# TYPE nat64handoff_x histogram\n\
             nat64handoff_x_bucket{le=\"0.5\"} 1\nnat64handoff_x_bucket{le=\"2\"} 3\n\
             nat64handoff_x_bucket{le=\"+Inf\"} 7\nnat64handoff_x_sum 3.5\nnat64handoff_x_count 7\n"
        );
    }

    #[test]
    fn labels_are_quoted() {
        let mut metrics = Metrics::default();
        metrics.value("x", &[("a", "1\"2\\3\n"), ("b", "c")], 4);
        assert_eq!(metrics.0, "nat64handoff_x{a=\"1\\\"2\\\\3\\n\",b=\"c\"} 4\n");
    }
}
