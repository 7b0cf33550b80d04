//! A context of the TPM software stack, opened and started, and its sessions.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use tss_esapi::attributes::SessionAttributesBuilder;
use tss_esapi::constants::{CapabilityType, SessionType, StartupType};
use tss_esapi::handles::{KeyHandle, SessionHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{CapabilityData, SymmetricDefinition};
use tss_esapi::{Context, TctiNameConf};

use super::error::of;
use super::{ChipError, KeyHandles};

/// How the TPM is reached, as the TPM software stack writes it: `device:/dev/tpmrm0`,
/// `swtpm:host=127.0.0.1,port=2321`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tcti(TctiNameConf);

/// Not a way to a TPM.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no way to a TPM; such as device:/dev/tpmrm0 or swtpm:host=127.0.0.1,port=2321")]
pub struct TctiError(String);

impl FromStr for Tcti {
    type Err = TctiError;

    fn from_str(text: &str) -> Result<Self, TctiError> {
        TctiNameConf::from_str(text)
            .map(Self)
            .map_err(|_| TctiError(text.to_owned()))
    }
}

impl Tcti {
    /// The device node that it needs; none when it is reached otherwise.
    pub fn node(&self) -> Option<PathBuf> {
        match &self.0 {
            TctiNameConf::Device(device) => {
                // The library keeps the path to itself but for its text.
                let text = format!("{device:?}");
                text.split('"').nth(1).map(PathBuf::from)
            }
            TctiNameConf::Mssim(_) | TctiNameConf::Swtpm(_) | TctiNameConf::Tabrmd(_) => None,
        }
    }
}

/// An open TPM.
pub struct Tss {
    pub(crate) context: Context,
    /// Its keys, once somebody asked for them.
    pub(crate) keys: Option<KeyHandles>,
}

impl fmt::Debug for Tss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tss").finish_non_exhaustive()
    }
}

impl Tss {
    /// Opens it.
    pub(crate) fn open(tcti: &Tcti) -> Result<Self, ChipError> {
        // Whatever happens on the way to it means that there is none to talk with.
        let gone = |error: tss_esapi::Error| ChipError::Gone(error.to_string());
        let mut context = Context::new(tcti.0.clone()).map_err(gone)?;
        // The kernel has done this on a device; a simulator that was restarted waits for it. Being
        // started already is no error.
        context.startup(StartupType::Clear).map_err(gone)?;
        Ok(Self {
            context,
            keys: None,
        })
    }

    /// Runs commands that need an authorization: every one of ours is empty.
    pub(crate) fn authorized<T>(
        &mut self,
        commands: impl FnOnce(&mut Context) -> tss_esapi::Result<T>,
    ) -> tss_esapi::Result<T> {
        self.context
            .execute_with_session(Some(AuthSession::Password), commands)
    }

    /// Runs commands in a session that is salted with the storage key, so that what is between us and the
    /// chip reads no secrets.
    pub(crate) fn secretly<T>(
        &mut self,
        salt: KeyHandle,
        commands: impl FnOnce(&mut Context, AuthSession) -> tss_esapi::Result<T>,
    ) -> tss_esapi::Result<T> {
        let session = self.session(salt, SessionType::Hmac)?;
        let (attributes, mask) = SessionAttributesBuilder::new()
            .with_decrypt(true)
            .with_encrypt(true)
            .with_continue_session(true)
            .build();
        let result = self
            .context
            .tr_sess_set_attributes(session, attributes, mask)
            .and_then(|()| commands(&mut self.context, session));
        self.flush(session);
        result
    }

    /// Begins a session, salted with the storage key. It is the caller's to flush.
    pub(crate) fn session(
        &mut self,
        salt: KeyHandle,
        kind: SessionType,
    ) -> tss_esapi::Result<AuthSession> {
        self.context
            .start_auth_session(
                Some(salt),
                None,
                None,
                kind,
                SymmetricDefinition::AES_128_CFB,
                HashingAlgorithm::Sha256,
            )?
            .ok_or(tss_esapi::Error::WrapperError(
                tss_esapi::WrapperErrorKind::WrongValueFromTpm,
            ))
    }

    /// Ends a session. One that the TPM no longer knows has ended.
    pub(crate) fn flush(&mut self, session: AuthSession) {
        self.context.clear_sessions();
        let _ = self
            .context
            .flush_context(SessionHandle::from(session).into());
    }

    /// Which of the handles from `first` on there are.
    pub(crate) fn handles(&mut self, first: u32) -> Result<Vec<u32>, ChipError> {
        const MOST: u32 = 254;
        let (data, _) = self
            .context
            .get_capability(CapabilityType::Handles, first, MOST)
            .map_err(of("list its handles"))?;
        match data {
            CapabilityData::Handles(list) => {
                Ok(list.into_inner().iter().map(|h| (*h).into()).collect())
            }
            _ => Ok(Vec::new()),
        }
    }
}
