//! NV indices: what the TPM keeps that is no key.

use tss_esapi::attributes::NvIndexAttributesBuilder;
use tss_esapi::handles::{NvIndexHandle, NvIndexTpmHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::resource_handles::{NvAuth, Provision};
use tss_esapi::structures::{MaxNvBuffer, NvPublicBuilder};

use crate::error::of;
use crate::tss::Tss;
use tpmmgr::chip::{ChipError, LONGEST_NV};

/// The first NV index.
const FIRST: u32 = 0x0100_0000;
/// What every TPM takes at a time.
const CHUNK: usize = 512;

impl Tss {
    /// The content of an index; none when it is not defined or was never written.
    pub(crate) fn read_nv(&mut self, index: u32) -> Result<Option<Vec<u8>>, ChipError> {
        let Some((handle, size, written)) = self.nv(index)? else {
            return Ok(None);
        };
        if !written {
            return Ok(None);
        }
        let read = |tss: &mut Self| {
            let mut content = Vec::with_capacity(size);
            while content.len() < size {
                let len = CHUNK.min(size - content.len());
                let (len, offset) = (small(len)?, small(content.len())?);
                let part =
                    tss.authorized(|context| context.nv_read(NvAuth::Owner, handle, len, offset))?;
                if part.value().is_empty() {
                    break;
                }
                content.extend_from_slice(part.value());
            }
            Ok(content)
        };
        read(self).map(Some).map_err(of("read its NV memory"))
    }

    /// Writes an index, which is defined anew when it has another size.
    pub(crate) fn write_nv(&mut self, index: u32, data: &[u8]) -> Result<(), ChipError> {
        if data.is_empty() || data.len() > LONGEST_NV {
            return Err(ChipError::Invalid(format!(
                "NV memory takes 1 to {LONGEST_NV} bytes at an index"
            )));
        }
        let existing = self.nv(index)?;
        let write = |tss: &mut Self| {
            let handle = match existing {
                Some((handle, size, _)) if size == data.len() => handle,
                Some((handle, ..)) => {
                    tss.authorized(|context| context.nv_undefine_space(Provision::Owner, handle))?;
                    tss.define(index, data.len())?
                }
                None => tss.define(index, data.len())?,
            };
            for (number, part) in data.chunks(CHUNK).enumerate() {
                let part = MaxNvBuffer::try_from(part)?;
                let offset = small(number * CHUNK)?;
                tss.authorized(|context| context.nv_write(NvAuth::Owner, handle, part, offset))?;
            }
            Ok(())
        };
        write(self).map_err(of("write its NV memory"))
    }

    fn define(&mut self, index: u32, size: usize) -> tss_esapi::Result<NvIndexHandle> {
        let attributes = NvIndexAttributesBuilder::new()
            .with_owner_read(true)
            .with_owner_write(true)
            .with_no_da(true)
            .build()?;
        let public = NvPublicBuilder::new()
            .with_nv_index(NvIndexTpmHandle::new(index)?)
            .with_index_name_algorithm(HashingAlgorithm::Sha256)
            .with_index_attributes(attributes)
            .with_data_area_size(size)
            .build()?;
        self.authorized(|context| context.nv_define_space(Provision::Owner, None, public))
    }

    /// An index with its size and whether it was written.
    fn nv(&mut self, index: u32) -> Result<Option<(NvIndexHandle, usize, bool)>, ChipError> {
        let handle = NvIndexTpmHandle::new(index)
            .map_err(|_| ChipError::Invalid(format!("{index:#x} is no NV index")))?;
        if !self.handles(FIRST)?.contains(&index) {
            return Ok(None);
        }
        let look = |tss: &mut Self| {
            let handle = tss.context.tr_from_tpm_public(TpmHandle::NvIndex(handle))?;
            let handle = NvIndexHandle::from(handle);
            let (public, _) = tss.context.nv_read_public(handle)?;
            Ok((handle, public))
        };
        let (handle, public) = look(self).map_err(of("show an NV index"))?;
        Ok(Some((
            handle,
            public.data_size(),
            public.attributes().written(),
        )))
    }
}

fn small(number: usize) -> tss_esapi::Result<u16> {
    u16::try_from(number)
        .map_err(|_| tss_esapi::Error::WrapperError(tss_esapi::WrapperErrorKind::WrongParamSize))
}
