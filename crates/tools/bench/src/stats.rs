//! Few numbers for many samples. Medians and ranks, no means: one sample that the scheduler delayed says nothing.

/// A summary of samples, in their unit.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Summary {
    /// How many there were.
    pub count: usize,
    /// The tenth percentile: what a quiet moment gives.
    pub p10: f64,
    /// The median.
    pub p50: f64,
    /// The ninetieth percentile.
    pub p90: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// Median of the absolute deviations from the median.
    pub mad: f64,
}

impl Summary {
    /// Of any number of samples, in any order; all zero if there are none.
    pub fn of(samples: impl IntoIterator<Item = f64>) -> Self {
        let sorted = sort(samples);
        let p50 = at(&sorted, 50);
        let deviations = sort(sorted.iter().map(|sample| (sample - p50).abs()));
        Self {
            count: sorted.len(),
            p10: at(&sorted, 10),
            p50,
            p90: at(&sorted, 90),
            p99: at(&sorted, 99),
            mad: at(&deviations, 50),
        }
    }
}

/// The median; 0 if there are no samples.
pub fn median(samples: impl IntoIterator<Item = f64>) -> f64 {
    at(&sort(samples), 50)
}

fn sort(samples: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut sorted: Vec<_> = samples.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The sample of the nearest rank: a value that was measured, never one between two.
fn at(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_samples() {
        let summary = Summary::of((1..=1000).rev().map(f64::from));
        assert_eq!(
            (summary.p10, summary.p50, summary.p90, summary.p99),
            (100.0, 500.0, 900.0, 990.0)
        );
        assert_eq!((summary.count, summary.mad), (1000, 250.0));
    }

    #[test]
    fn one_late_sample_moves_nothing_but_the_end() {
        let samples = (0..99).map(|_| 80.0).chain([1e9]);
        let summary = Summary::of(samples);
        assert_eq!((summary.p50, summary.p99, summary.mad), (80.0, 80.0, 0.0));
    }

    #[test]
    fn few_samples_are_no_trouble() {
        assert_eq!(Summary::of([]), Summary::default());
        let one = Summary::of([7.0]);
        assert_eq!((one.p10, one.p50, one.p99, one.mad), (7.0, 7.0, 7.0, 0.0));
        assert!((median([3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
    }
}
