//! Who keeps the keys of this device: decided once, when it is installed, and remembered. Pure.
//!
//! A TPM that fails, is missing or was cleared never leads to a key in a file: whoever can break or unplug a
//! TPM must not get a device that is content without. So a file is used only where the device was installed
//! that way, which shows in the CONFIG partition, and not at all on a device that has used a TPM.

use tpm::Keeper;

/// What tells: five findings that nothing ties to each other.
#[allow(clippy::struct_excessive_bools)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    /// What was used before.
    pub remembered: Option<Keeper>,
    /// `/config/soft_key`: the installer, or a person, chose to have no TPM.
    pub chosen_soft: bool,
    /// `/config/device.key.pem`.
    pub has_key_file: bool,
    /// `/config/device.cert.pem`.
    pub has_certificate: bool,
    /// There is a TPM, as far as one can see without opening it.
    pub has_tpm: bool,
}

/// The keeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The TPM.
    Tpm,
    /// A file, as installed.
    Software,
    /// The TPM, and there is none.
    Missing(Missing),
}

/// Why a TPM that is not there is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The device has used one.
    Used,
    /// It was not installed to do without.
    NotChosen,
}

impl Missing {
    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Used => "the device's keys are in a TPM that is not there",
            Self::NotChosen => {
                "there is no TPM, and the device was not installed to do without: a file soft_key in the CONFIG \
                 partition says so"
            }
        }
    }
}

/// Decides.
pub fn choose(installed: Installed) -> Choice {
    let Installed {
        remembered,
        chosen_soft,
        has_key_file,
        has_certificate,
        has_tpm,
    } = installed;
    // A certificate without its key is that of a key in a TPM.
    let used = match remembered {
        Some(keeper) => keeper == Keeper::Tpm,
        None => has_certificate && !has_key_file,
    };
    let soft = !used && (remembered.is_some() || chosen_soft || has_key_file);
    match (soft, has_tpm) {
        (true, _) => Choice::Software,
        (false, true) => Choice::Tpm,
        (false, false) if used => Choice::Missing(Missing::Used),
        (false, false) => Choice::Missing(Missing::NotChosen),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = Installed> {
        let flags = |bits: u32, bit: u32| bits & (1 << bit) != 0;
        [None, Some(Keeper::Tpm), Some(Keeper::Software)]
            .into_iter()
            .flat_map(move |remembered| {
                (0..16).map(move |bits| Installed {
                    remembered,
                    chosen_soft: flags(bits, 0),
                    has_key_file: flags(bits, 1),
                    has_certificate: flags(bits, 2),
                    has_tpm: flags(bits, 3),
                })
            })
    }

    #[test]
    fn a_device_that_used_a_tpm_never_uses_a_file() {
        for installed in all().filter(|i| i.remembered == Some(Keeper::Tpm)) {
            let expected = if installed.has_tpm {
                Choice::Tpm
            } else {
                Choice::Missing(Missing::Used)
            };
            assert_eq!(choose(installed), expected, "{installed:?}");
        }
    }

    #[test]
    fn taking_the_tpm_away_never_makes_a_file_the_keeper() {
        for installed in all() {
            let without = Installed {
                has_tpm: false,
                ..installed
            };
            if choose(installed) == Choice::Tpm {
                assert!(
                    matches!(choose(without), Choice::Missing(_)),
                    "{installed:?}"
                );
            }
        }
    }

    #[test]
    fn a_file_is_used_where_the_device_was_installed_so() {
        let fresh = Installed::default();
        assert_eq!(choose(fresh), Choice::Missing(Missing::NotChosen));
        for installed in [
            Installed {
                chosen_soft: true,
                has_tpm: true,
                ..fresh
            },
            Installed {
                has_key_file: true,
                has_certificate: true,
                has_tpm: true,
                ..fresh
            },
            Installed {
                remembered: Some(Keeper::Software),
                has_tpm: true,
                ..fresh
            },
        ] {
            assert_eq!(choose(installed), Choice::Software, "{installed:?}");
        }
        // Its key is in a TPM, whatever file was added since.
        let moved = Installed {
            chosen_soft: true,
            has_certificate: true,
            ..fresh
        };
        assert_eq!(choose(moved), Choice::Missing(Missing::Used));
    }
}
