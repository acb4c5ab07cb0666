//! [`Exposition`]: Prometheus' text format, version 0.0.4. PURE.
//!
//! Ours, because almost everything shown is read off at the moment it is asked for: a registry of
//! a library would be emptied and filled at each scrape. The official crate writes OpenMetrics,
//! which `promtool check metrics` and older servers do not take for this.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

use std::fmt::{Display, Write as _};

use crate::metrics::HistogramView;

/// The content type.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What kind of series a family has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Label names and values of one series.
pub(super) type Labels<'a> = &'a [(&'a str, &'a str)];

/// Text that is being written.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    text: String,
    family: &'static str,
}

impl Exposition {
    /// Begins a family: what is added from now on is of it.
    pub(super) fn family(&mut self, name: &'static str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.family = name;
        let help = help.replace('\\', r"\\").replace('\n', r"\n");
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// One number.
    pub(super) fn sample(&mut self, labels: Labels<'_>, value: impl Display) {
        self.series("", labels, None, value);
    }

    /// One number that has no labels, as a family of its own.
    pub(super) fn single(
        &mut self,
        name: &'static str,
        kind: Kind,
        help: &str,
        value: impl Display,
    ) {
        self.family(name, kind, help);
        self.sample(&[], value);
    }

    /// A histogram.
    pub(super) fn histogram(&mut self, labels: Labels<'_>, view: &HistogramView) {
        for (bound, count) in &view.classes {
            self.series("_bucket", labels, Some(&bound.to_string()), count);
        }
        self.series("_bucket", labels, Some("+Inf"), view.count);
        self.series("_sum", labels, None, view.sum);
        self.series("_count", labels, None, view.count);
    }

    /// The whole text.
    pub(super) fn into_text(self) -> String {
        self.text
    }

    fn series(&mut self, suffix: &str, labels: Labels<'_>, le: Option<&str>, value: impl Display) {
        self.text.push_str(self.family);
        self.text.push_str(suffix);
        let labels = labels.iter().copied().chain(le.map(|le| ("le", le)));
        let mut open = '{';
        for (name, value) in labels {
            self.text.push(open);
            open = ',';
            self.text.push_str(name);
            self.text.push_str("=\"");
            for c in value.chars() {
                match c {
                    '\\' => self.text.push_str(r"\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str(r"\n"),
                    other => self.text.push(other),
                }
            }
            self.text.push('"');
        }
        if open == ',' {
            self.text.push('}');
        }
        self.line(format_args!(" {value}\n"));
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        self.text.write_fmt(text).expect("a string takes everything");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_labels_and_histograms_are_written_as_the_format_has_them() {
        let mut out = Exposition::default();
        out.family("a_total", Kind::Counter, "How \\ many\nlines.");
        out.sample(&[("x", "quote \" slash \\ line \n"), ("y", "")], 3);
        out.single("b", Kind::Gauge, "One.", 0.5);
        out.family("c_seconds", Kind::Histogram, "Long.");
        let view = HistogramView { classes: vec![(0.000_02, 1), (5.0, 2)], count: 4, sum: 12.5 };
        out.histogram(&[("z", "1")], &view);
        insta::assert_snapshot!(out.into_text(), @r##"
        # HELP a_total How \\ many\nlines.
        # TYPE a_total counter
        a_total{x="quote \" slash \\ line \n",y=""} 3
        # HELP b One.
        # TYPE b gauge
        b 0.5
        # HELP c_seconds Long.
        # TYPE c_seconds histogram
        c_seconds_bucket{z="1",le="0.00002"} 1
        c_seconds_bucket{z="1",le="5"} 2
        c_seconds_bucket{z="1",le="+Inf"} 4
        c_seconds_sum{z="1"} 12.5
        c_seconds_count{z="1"} 4
        "##);
    }
}
