//! The tree checks itself: what the architecture says and CI can see.
//!
//! `cargo xtask check` fails with one line per breach; `cargo xtask docs` writes the generated
//! pages. A convention that is not checked here is deleted or turned into a type.
#![forbid(unsafe_code)]

mod layers;
mod pages;
mod purity;
mod security;
mod sizes;
mod tree;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Checks the tree against its own rules and writes its generated pages")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// File sizes, module names, dependency direction, purity of plans, freshness of generated pages.
    Check,
    /// Write docs/topics.md, docs/properties.md, docs/errors.md and the tables of docs/security.md.
    Docs,
}

fn main() -> Result<ExitCode> {
    let root = tree::root()?;
    match Arguments::parse().task {
        Task::Docs => {
            for page in pages::pages(&root)? {
                std::fs::write(root.join(page.path), page.text)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Task::Check => {
            let mut breaches = sizes::check(&root)?;
            breaches.extend(layers::check(&root)?);
            breaches.extend(purity::check(&root)?);
            breaches.extend(pages::check(&root)?);
            for breach in &breaches {
                eprintln!("{breach}");
            }
            println!("xtask: {} breaches", breaches.len());
            Ok(if breaches.is_empty() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
    }
}
