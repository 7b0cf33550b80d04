//! How the TPM is.

use tss_esapi::constants::PropertyTag;

use crate::error::of;
use crate::tss::Tss;
use tpmmgr::chip::{ChipError, ChipState};

/// `TPMA_PERMANENT.inLockout`.
const IN_LOCKOUT: u32 = 1 << 9;

impl Tss {
    /// Asks it.
    pub(crate) fn state(&mut self) -> Result<ChipState, ChipError> {
        // Kept by the library once known, which these are not to be: a lock-out begins and ends.
        let permanent = self.variable(PropertyTag::Permanent)?;
        let recovery = self.variable(PropertyTag::LockoutInterval)?;
        let mut fixed = |tag| {
            let value = self.context.get_tpm_property(tag);
            value
                .map(Option::unwrap_or_default)
                .map_err(of("tell its make"))
        };
        let text = |words: &[u32]| {
            let bytes = words.iter().flat_map(|word| word.to_be_bytes());
            let text: String = bytes
                .filter(|byte| byte.is_ascii_graphic() || *byte == b' ')
                .map(char::from)
                .collect();
            text.trim().to_owned()
        };
        let maker = text(&[fixed(PropertyTag::Manufacturer)?]);
        let model = text(&[
            fixed(PropertyTag::VendorString1)?,
            fixed(PropertyTag::VendorString2)?,
            fixed(PropertyTag::VendorString3)?,
            fixed(PropertyTag::VendorString4)?,
        ]);
        let (major, minor) = (
            fixed(PropertyTag::FirmwareVersion1)?,
            fixed(PropertyTag::FirmwareVersion2)?,
        );
        Ok(ChipState {
            vendor: format!("{maker} {model}").trim().to_owned(),
            firmware: format!("{}.{}.{minor:x}", major >> 16, major & 0xffff),
            sha256: self.has_sha256()?,
            locked_out: (permanent & IN_LOCKOUT != 0).then_some(recovery),
        })
    }

    fn variable(&mut self, tag: PropertyTag) -> Result<u32, ChipError> {
        use tss_esapi::constants::CapabilityType;
        use tss_esapi::structures::{CapabilityData, TaggedProperty};
        let (data, _) = self
            .context
            .get_capability(CapabilityType::TpmProperties, tag.into(), 1)
            .map_err(of("tell its state"))?;
        match data {
            CapabilityData::TpmProperties(list) => {
                Ok(list.find(tag).map_or(0, TaggedProperty::value))
            }
            _ => Ok(0),
        }
    }
}
