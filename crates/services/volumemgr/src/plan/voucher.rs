//! Who vouches for an image.

use agent::Turn;
use model::{code::Code, content::ContentTreeConfig, fault::Fault};

use crate::Volumemgr;

/// In the CONFIG partition: no image is used that nobody signed.
pub const SIGNED_ONLY: &str = "signed_images_only";

/// Whether an image may be used.
#[derive(Debug, Clone, PartialEq)]
pub enum Voucher {
    /// It has a good signature, or needs none.
    Good,
    /// Its signature has not been judged yet.
    Awaited,
    /// It is not signed though it must be, or its signature does not count.
    Refused(Box<Fault>),
}

/// Whether the image of a content tree may be used.
pub fn voucher(turn: &Turn<'_, Volumemgr>, tree: &ContentTreeConfig) -> Voucher {
    let Turn {
        desired,
        actual,
        now,
        ..
    } = *turn;
    if tree.signature.is_none() {
        if !actual.signed_only {
            return Voucher::Good;
        }
        let text = format!(
            "nobody signed it, and this device uses signed images only (/config/{SIGNED_ONLY})"
        );
        let object = format!("content tree {}", tree.id);
        let fault = Fault::new(Code::VerifySignature, object, text, now);
        let old = desired.own.trees.get(&tree.id.to_string());
        let fault = fault.continuing(old.and_then(|row| row.fault.as_ref()));
        return Voucher::Refused(Box::new(fault));
    }
    let rows = desired.signatures.as_ref();
    match rows.and_then(|rows| rows.get(&tree.id.to_string())) {
        Some(row) if row.is_of(tree) => match (&row.fault, &row.signer) {
            (Some(fault), _) => Voucher::Refused(Box::new(fault.clone())),
            (None, Some(_)) => Voucher::Good,
            (None, None) => Voucher::Awaited,
        },
        Some(_) | None => Voucher::Awaited,
    }
}
