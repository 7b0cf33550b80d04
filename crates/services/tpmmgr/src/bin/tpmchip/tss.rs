//! A context of the TPM software stack, opened and started, and its sessions.

use std::str::FromStr;

use tss_esapi::attributes::SessionAttributesBuilder;
use tss_esapi::constants::{CapabilityType, SessionType, StartupType};
use tss_esapi::handles::{KeyHandle, ObjectHandle, SessionHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{Auth, CapabilityData, SymmetricDefinition};
use tss_esapi::{Context, TctiNameConf};

use crate::error::of;
use crate::key::KeyHandles;
use tpmmgr::chip::ChipError;

/// An open TPM.
pub(crate) struct Tss {
    pub(crate) context: Context,
    /// Its keys, once somebody asked for them.
    pub(crate) keys: Option<KeyHandles>,
    /// Names of the keys that the last look for them made.
    pub(crate) made: Vec<String>,
}

impl Tss {
    /// Opens it by a way such as `device:/dev/tpmrm0`.
    pub(crate) fn open(way: &str) -> Result<Self, ChipError> {
        // Whatever happens on the way to it means that there is none to talk with.
        let gone = |error: tss_esapi::Error| ChipError::Gone(error.to_string());
        let way = TctiNameConf::from_str(way).map_err(gone)?;
        let mut context = Context::new(way).map_err(gone)?;
        // The kernel has done this on a device; a simulator that was restarted waits for it. Being
        // started already is no error.
        context.startup(StartupType::Clear).map_err(gone)?;
        Ok(Self {
            context,
            keys: None,
            made: Vec::new(),
        })
    }

    /// From here on the owner's commands carry this password.
    pub(crate) fn authorize(&mut self, password: &[u8]) -> Result<(), ChipError> {
        let set = |tss: &mut Self| {
            let owner = ObjectHandle::from(Hierarchy::Owner);
            tss.context.tr_set_auth(owner, Auth::try_from(password)?)
        };
        set(self).map_err(of("take the owner's password"))
    }

    /// Runs commands that need an authorization: every one of ours is empty, but for the owner's on some devices.
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
