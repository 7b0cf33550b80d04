//! From `publish` to the handler in another process, at a quiet pace; and how many publishes fit into a second.

use std::time::Duration;

use anyhow::Result;

use crate::{
    bus::stream::Stream,
    clock::{per_second, us},
    stats::{Summary, median},
    stop::Stop,
};

/// What is measured in turns.
pub struct Lane {
    /// For the table.
    pub name: String,
    /// Publisher and readers.
    pub stream: Stream,
    /// Index of the lane that it is compared with.
    floor: usize,
    /// Index of the floor with as many files as it has rows.
    alike: Option<usize>,
    /// Delays of each turn in microseconds.
    turns: Vec<Vec<f64>>,
    /// Publishes per second in each turn.
    rates: Vec<f64>,
    /// The same, until the last reader had seen the last.
    through: Vec<f64>,
}

/// The figures of a lane.
#[derive(Debug, Clone, Default)]
pub struct Delay {
    /// For the table.
    pub name: String,
    /// All samples in microseconds.
    pub us: Summary,
    /// How many times the floor: the median of the turns' ratios of medians.
    pub ratio: f64,
    /// How many times the floor with as many files as it has rows.
    pub ratio_alike: Option<f64>,
}

/// The figures of a lane at full speed.
#[derive(Debug, Clone, Default)]
pub struct Rate {
    /// For the table.
    pub name: String,
    /// Publishes per second.
    pub publishes: Summary,
    /// Publishes per second until the last reader had seen the last.
    pub through: Summary,
    /// How many times the floor's time.
    pub ratio: f64,
}

impl Lane {
    /// A lane without samples, to be compared with the lane of index `floor`.
    pub fn new(name: impl Into<String>, floor: usize, stream: Stream) -> Self {
        Self {
            name: name.into(),
            stream,
            floor,
            alike: None,
            turns: Vec::new(),
            rates: Vec::new(),
            through: Vec::new(),
        }
    }

    /// It is compared with the lane of index `alike`, too.
    #[must_use]
    pub fn beside(self, alike: usize) -> Self {
        Self {
            alike: Some(alike),
            ..self
        }
    }
}

/// Takes `samples` of each lane, 50 in a turn.
pub fn delays(
    lanes: &mut [Lane],
    samples: u32,
    pause: Duration,
    stop: &Stop,
) -> Result<Vec<Delay>> {
    const TURN: u32 = 50;
    for _ in 0..samples.div_ceil(TURN) {
        for lane in &mut *lanes {
            stop.check()?;
            let seen = lane.stream.burst(TURN.min(samples), pause)?;
            lane.turns
                .push(seen.delays_ns.into_iter().map(us).collect());
        }
    }
    let medians = |lane: &Lane| -> Vec<f64> {
        let turns = lane.turns.iter();
        turns.map(|turn| median(turn.iter().copied())).collect()
    };
    let beside = |lane: &Lane, other: usize| {
        let other = lanes.get(other)?;
        Some(ratio(&medians(lane), &medians(other)))
    };
    let figures = lanes.iter().map(|lane| Delay {
        name: lane.name.clone(),
        us: Summary::of(lane.turns.iter().flatten().copied()),
        ratio: beside(lane, lane.floor).unwrap_or(0.0),
        ratio_alike: lane.alike.and_then(|alike| beside(lane, alike)),
    });
    Ok(figures.collect())
}

/// Publishes at full speed, `turns` times `count` objects in each lane.
pub fn rates(lanes: &mut [Lane], turns: u32, count: u32, stop: &Stop) -> Result<Vec<Rate>> {
    for _ in 0..turns {
        for lane in &mut *lanes {
            stop.check()?;
            let seen = lane.stream.burst(count, Duration::ZERO)?;
            lane.rates.push(per_second(count, seen.publish_ns));
            lane.through.push(per_second(count, seen.through_ns));
        }
    }
    let figures = lanes.iter().map(|lane| Rate {
        name: lane.name.clone(),
        publishes: Summary::of(lane.rates.iter().copied()),
        through: Summary::of(lane.through.iter().copied()),
        ratio: lanes
            .get(lane.floor)
            .map_or(0.0, |floor| ratio(&floor.rates, &lane.rates)),
    });
    Ok(figures.collect())
}

/// The median of what each turn gave: a slow moment of the machine hits both sides.
pub fn ratio(these: &[f64], those: &[f64]) -> f64 {
    median(these.iter().zip(those).map(|(this, that)| this / that))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_turn_of_the_machine_is_no_slow_bus() {
        let floor = [80.0, 800.0, 80.0];
        let bus = [120.0, 1200.0, 120.0];
        assert!((ratio(&bus, &floor) - 1.5).abs() < 1e-9);
    }
}
