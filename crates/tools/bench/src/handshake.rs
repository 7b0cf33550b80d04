//! `bench tls`: what it costs that the device's key is nowhere but in its keeper: signatures, as envelopes have one each,
//! and TLS handshakes in which the controller asks for the device's certificate, by a key in a (simulated) TPM, by one
//! that tpmmgr keeps in a file, and, as the floor, by one in this process.
//!
//! Both ends of a handshake are in this process, with the settings of the device's client and of evc; only tpmmgr and the
//! TPM are processes of their own.

pub mod ends;
pub mod keepers;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::{Map, Value, json};

use crate::{
    report::{Table, figure, machine, rounded, write},
    stats::{Summary, median},
    stop::Stop,
};
use ends::Ends;
use keepers::{Keepers, Subject};

/// How often it is measured.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Repetitions, in which each key has its turn.
    #[arg(long, default_value_t = 40)]
    pub turns: u32,
    /// Signatures, and handshakes, of each key in a repetition.
    #[arg(long, default_value_t = 10)]
    pub samples: u32,
    /// Where the result goes.
    #[arg(long, default_value = "target/bench/tls.json")]
    pub out: PathBuf,
}

/// Figures of one key.
#[derive(Debug, Clone, Default)]
struct Figures {
    name: &'static str,
    signature_us: Vec<f64>,
    handshake_us: Vec<f64>,
    /// Medians of a turn beside those of the floor in the same turn.
    signature_ratios: Vec<f64>,
    handshake_ratios: Vec<f64>,
}

/// Measures, prints and writes.
pub fn run(options: &Options, stop: &Stop) -> Result<()> {
    ensure!(
        options.turns > 0 && options.samples > 0,
        "nothing to measure"
    );
    let before = machine();
    let keepers = Keepers::start().context("start the keepers of the keys")?;
    let subjects = keepers.subjects().context("ask for the keys")?;
    let figures = measure(&subjects, options, stop)?;
    println!("{}", table_of(&figures, options));
    let mut result = json_of(&figures);
    result["machine"] = before;
    write(&options.out, &result)
}

fn measure(subjects: &[Subject], options: &Options, stop: &Stop) -> Result<Vec<Figures>> {
    let ends: Vec<Ends> = subjects
        .iter()
        .map(|subject| Ends::new(&subject.signer))
        .collect::<Result<_>>()?;
    let mut all: Vec<Figures> = subjects
        .iter()
        .map(|subject| Figures {
            name: subject.name,
            ..Figures::default()
        })
        .collect();
    for turn in 0..=options.turns {
        stop.check()?;
        let (mut signatures, mut handshakes) = (Vec::new(), Vec::new());
        for (subject, ends) in subjects.iter().zip(&ends) {
            let (mut signing, mut shaking) = (Vec::new(), Vec::new());
            for _ in 0..options.samples {
                signing.push(ends::signature(&subject.signer)?);
                shaking.push(ends.handshake()?);
            }
            signatures.push(signing);
            handshakes.push(shaking);
        }
        // The first turn warms up: connections are made, code is loaded.
        if turn > 0 {
            note(&mut all, &signatures, |f| {
                (&mut f.signature_us, &mut f.signature_ratios)
            });
            note(&mut all, &handshakes, |f| {
                (&mut f.handshake_us, &mut f.handshake_ratios)
            });
        }
    }
    Ok(all)
}

/// Adds the samples of a turn; the first key is the floor.
fn note(
    all: &mut [Figures],
    turn: &[Vec<f64>],
    of: impl Fn(&mut Figures) -> (&mut Vec<f64>, &mut Vec<f64>),
) {
    let floor = turn.first().map_or(0.0, |samples| median(samples.clone()));
    for (figures, samples) in all.iter_mut().zip(turn) {
        let (kept, ratios) = of(figures);
        kept.extend(samples);
        if floor > 0.0 {
            ratios.push(median(samples.clone()) / floor);
        }
    }
}

fn table_of(figures: &[Figures], options: &Options) -> Table {
    let title = format!(
        "signatures and TLS 1.3 handshakes by the device's key, us ({} turns of {})",
        options.turns, options.samples
    );
    let columns = [
        "key",
        "signature p10",
        "p50",
        "p90",
        "x floor",
        "handshake p10",
        "p50",
        "p90",
        "x floor",
        "handshakes/s",
    ];
    let mut table = Table::new(title, &columns);
    for one in figures {
        let (signature, handshake) = (of(&one.signature_us), of(&one.handshake_us));
        table.row([
            one.name.to_owned(),
            figure(signature.p10),
            figure(signature.p50),
            figure(signature.p90),
            figure(median(one.signature_ratios.clone())),
            figure(handshake.p10),
            figure(handshake.p50),
            figure(handshake.p90),
            figure(median(one.handshake_ratios.clone())),
            figure(per_second(handshake.p50)),
        ]);
    }
    table
}

fn of(samples: &[f64]) -> Summary {
    Summary::of(samples.iter().copied())
}

fn per_second(us: f64) -> f64 {
    if us > 0.0 { 1e6 / us } else { 0.0 }
}

fn json_of(figures: &[Figures]) -> Value {
    let by_key = |value: fn(&Figures) -> f64| -> Value {
        let pairs = figures
            .iter()
            .map(|one| (one.name.to_owned(), rounded(value(one))));
        Value::Object(pairs.collect::<Map<_, _>>())
    };
    json!({
        "signature_p50_us": by_key(|one| of(&one.signature_us).p50),
        "signature_p90_us": by_key(|one| of(&one.signature_us).p90),
        "signature_x_floor": by_key(|one| median(one.signature_ratios.clone())),
        "handshake_p50_us": by_key(|one| of(&one.handshake_us).p50),
        "handshake_p90_us": by_key(|one| of(&one.handshake_us).p90),
        "handshake_x_floor": by_key(|one| median(one.handshake_ratios.clone())),
        "handshakes_per_s": by_key(|one| per_second(of(&one.handshake_us).p50)),
    })
}
