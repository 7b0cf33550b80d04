//! Which kernel modules a guest needs, in the order in which plain `insmod` can load them.

use std::collections::{BTreeMap, BTreeSet};

/// A kernel's `modules.dep`: module path -> paths of the modules it needs.
#[derive(Debug)]
pub(super) struct Dependencies {
    by_name: BTreeMap<String, String>,
    needs: BTreeMap<String, Vec<String>>,
}

/// The module that was asked for is not in this kernel.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the kernel package has no module {0}")]
pub struct NoSuchModule(pub String);

impl Dependencies {
    /// Reads the text of a `modules.dep` file as `depmod` writes it.
    #[must_use]
    pub(super) fn parse(text: &str) -> Dependencies {
        let mut by_name = BTreeMap::new();
        let mut needs = BTreeMap::new();
        for line in text.lines() {
            let Some((path, rest)) = line.split_once(':') else {
                continue;
            };
            by_name.insert(name(path), path.to_owned());
            needs.insert(
                path.to_owned(),
                rest.split_whitespace().map(str::to_owned).collect(),
            );
        }
        Dependencies { by_name, needs }
    }

    /// Paths of `wanted` and of all they need, each after its own needs, none twice.
    pub(super) fn load_order(&self, wanted: &[&str]) -> Result<Vec<String>, NoSuchModule> {
        let mut seen = BTreeSet::new();
        let mut order = Vec::new();
        for module in wanted {
            let path = self
                .by_name
                .get(&module.replace('-', "_"))
                .ok_or_else(|| NoSuchModule((*module).to_owned()))?;
            self.visit(path, &mut seen, &mut order);
        }
        Ok(order)
    }

    fn visit(&self, path: &str, seen: &mut BTreeSet<String>, order: &mut Vec<String>) {
        if !seen.insert(path.to_owned()) {
            return;
        }
        for need in self.needs.get(path).into_iter().flatten() {
            self.visit(need, seen, order);
        }
        order.push(path.to_owned());
    }
}

/// `kernel/drivers/char/hw_random/virtio-rng.ko` -> `virtio_rng`.
fn name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    const DEP: &str = "k/virtio.ko: k/virtio_ring.ko\nk/virtio_ring.ko:\n\
                       k/virtio_pci.ko: k/virtio_ring.ko k/virtio.ko\nk/virtio-rng.ko: k/virtio.ko k/virtio_ring.ko\n";

    #[test]
    fn every_module_comes_after_its_needs() {
        let order = Dependencies::parse(DEP)
            .load_order(&["virtio_pci", "virtio-rng"])
            .unwrap();
        assert_eq!(
            order,
            [
                "k/virtio_ring.ko",
                "k/virtio.ko",
                "k/virtio_pci.ko",
                "k/virtio-rng.ko"
            ]
        );
    }

    #[test]
    fn an_unknown_module_is_named() {
        let error = Dependencies::parse(DEP).load_order(&["ahci"]).unwrap_err();
        assert_eq!(error, NoSuchModule("ahci".into()));
    }
}
