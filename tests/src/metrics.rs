/// A reading of `/metrics` (OpenMetrics text).
#[derive(Clone, Debug)]
pub struct Metrics {
    samples: Vec<(String, f64)>,
}

impl Metrics {
    pub fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            // Label values may hold spaces, so the name ends at the brace; an exemplar follows " # ".
            let line = line.split(" # ").next()?;
            let end = line.rfind('}').map_or_else(|| line.find(' '), |brace| Some(brace + 1))?;
            let value = line[end..].split_whitespace().next()?;
            Some((line[..end].to_owned(), value.parse().ok()?))
        });
        Self { samples: samples.collect() }
    }

    /// The sum of this metric over all its labels; 0 when there is none.
    pub fn sum(&self, name: &str) -> f64 {
        self.samples.iter().filter(|(sample, _)| base(sample) == name).map(|(_, value)| value).sum()
    }

    /// Whether there is a sample of this name at all.
    pub fn has(&self, name: &str) -> bool {
        self.samples.iter().any(|(sample, _)| base(sample) == name)
    }
}

fn base(sample: &str) -> &str {
    sample.split('{').next().unwrap_or(sample)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_over_their_labels() {
        let text = "# HELP a things\na_total{x=\"1 2\"} 2\na_total{x=\"}\"} 3.5 # {id=\"7\"} 1\nb 7\n# EOF\n";
        let metrics = Metrics::parse(text);
        assert_eq!((metrics.sum("a_total"), metrics.sum("b"), metrics.sum("c")), (5.5, 7.0, 0.0));
        assert!(metrics.has("b") && !metrics.has("a"));
    }
}
