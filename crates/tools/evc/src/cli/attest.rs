//! What devices prove of themselves, and what people accept.

use super::args::{AttestArgs, AttestCommand};
use super::device::said;
use super::output::{json, line, or_dash, short_time, table};
use crate::admin::{Accept, AttestView, BaselineView, Bind};
use crate::decide::attest::baseline::{Change, Comparison};
use crate::decide::attest::eventlog::kind_name;
use crate::store::measurements::Scope;
use model::security::component_of_pcr;

pub(super) async fn attest(args: AttestArgs) -> anyhow::Result<()> {
    let (client, as_json) = (args.access.client()?, args.access.json);
    match args.command {
        AttestCommand::Show { device, events } => {
            let view = client.attestation(&device).await?;
            if as_json {
                json(&view)
            } else {
                line(&shown(&view, events))
            }
        }
        AttestCommand::Accept {
            device,
            name,
            model,
        } => {
            let accepted = client.accept(&device, &Accept { name, model }).await?;
            if as_json {
                json(&accepted)
            } else {
                line(&format!(
                    "baseline {} for {}; a device that was kept out asks again within 8 minutes",
                    accepted.id,
                    scope(&accepted.scope)
                ))
            }
        }
        AttestCommand::Baselines => {
            let all = client.baselines().await?;
            if as_json {
                json(&all)
            } else {
                line(&baselines(&all))
            }
        }
        AttestCommand::Forget { id } => {
            client.forget_baseline(id).await?;
            said(as_json, &format!("baseline {id} is not accepted any more"))
        }
        AttestCommand::Bind { device, ek, none } => {
            let bind = match (ek, none) {
                (Some(key), _) => Bind::Key(key),
                (None, true) => Bind::None,
                (None, false) => Bind::Shown,
            };
            let bound = client.bind(&device, &bind).await?;
            if as_json {
                return json(&bound);
            }
            line(&match bound.bound {
                Some(key) => format!("{device} is bound to endorsement key {key}"),
                None => format!("{device} is bound to no TPM"),
            })
        }
    }
}

fn scope(scope: &Scope) -> String {
    match scope {
        Scope::Device(uuid) => format!("device {uuid}"),
        Scope::Model(model) => format!("model {model}"),
    }
}

fn baselines(all: &[BaselineView]) -> String {
    let rows: Vec<_> = all
        .iter()
        .map(|base| {
            vec![
                base.id.to_string(),
                scope(&base.scope),
                or_dash(Some(&base.name)),
                short_time(base.accepted.as_deref()),
            ]
        })
        .collect();
    table(&["ID", "FOR", "NAME", "ACCEPTED"], &rows)
}

fn shown(view: &AttestView, events: bool) -> String {
    let mut lines = vec![
        format!("attestation  {}", or_dash(Some(&view.note))),
        format!("attested     {}", short_time(view.attested.as_deref())),
        format!("last quote   {}", short_time(view.quoted.as_deref())),
    ];
    match &view.endorsement {
        Some(key) if !key.key.is_empty() => {
            lines.push(format!(
                "endorsement  {}, vouched for {}",
                key.key, key.vouched
            ));
        }
        Some(key) => lines.push(format!("endorsement  {}", key.vouched)),
        None => lines.push("endorsement  not shown".to_owned()),
    }
    lines.push(format!("bound to     {}", or_dash(view.bound.as_deref())));
    match &view.comparison {
        None => lines.push("measured     nothing".to_owned()),
        Some(Comparison::NoBaseline) => {
            lines.push("measured     nobody has reviewed it yet (evc attest accept)".to_owned());
        }
        Some(Comparison::Accepted) => lines.push("measured     as reviewed".to_owned()),
        Some(Comparison::Changed(changes)) => {
            lines.push("measured     CHANGED since its review:".to_owned());
            lines.extend(changes.iter().flat_map(change));
        }
    }
    let Some(state) = &view.state else {
        return lines.join("\n");
    };
    if let Some(problem) = &state.log_problem {
        lines.push(format!("event log    {problem}"));
    }
    lines.extend(state.versions.iter().map(|v| format!("version      {v}")));
    if events {
        let rows: Vec<_> = state
            .events
            .iter()
            .map(|event| {
                let proved = state.explained.contains(&event.pcr);
                vec![
                    event.pcr.to_string(),
                    component_of_pcr(event.pcr).to_owned(),
                    kind_name(event.kind),
                    event.digest.chars().take(16).collect(),
                    if proved { "" } else { "(not proved) " }.to_owned() + &event.text,
                ]
            })
            .collect();
        lines.push(table(
            &["PCR", "COMPONENT", "EVENT", "SHA256", "WHAT"],
            &rows,
        ));
    }
    lines.join("\n")
}

fn change(change: &Change) -> Vec<String> {
    let mut lines = vec![format!("  {} (PCR {})", change.component, change.pcr)];
    lines.extend(change.gone.iter().map(|what| format!("    - {what}")));
    lines.extend(change.new.iter().map(|what| format!("    + {what}")));
    if !change.explained {
        lines.push("    the event log does not give these values".to_owned());
    }
    lines
}
