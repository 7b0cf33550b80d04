//! Who the device is: its certificate, and the name that the controller has for it.

use std::sync::Arc;

use agent::Failure;
use controller::Signer;
use model::{
    code::Code,
    id::{DeviceId, Digest},
};

use super::Evc;
use crate::{facts::Name, failure::of_call};

impl Evc {
    /// tpmmgr makes it, at the first boot, and keeps its key. Tells whether it is another one than before: until the
    /// controller knows the device, an operator may exchange its certificate, or that to register with.
    pub(super) fn learn_identity(&self) -> Result<bool, Failure> {
        let failure = |error: controller::SignerError| {
            Failure::of(Code::OnboardIdentity, "identity", &error).transient()
        };
        let device = self.keys.device().map_err(failure)?;
        let onboarding = self.keys.onboarding().map_err(failure)?;
        let mut state = self.state();
        if let Some(partition) = &mut state.facts.partition {
            partition.can_register = onboarding.is_some();
        }
        let hash = |signer: &Arc<dyn Signer>| signer.certificate().der_hash();
        let before = (state.device.as_ref(), state.onboarding.as_ref());
        let is_another = before.0.is_some()
            && (before.0.map(hash), before.1.map(hash))
                != (Some(hash(&device)), onboarding.as_ref().map(hash));
        if is_another {
            tracing::info!("the device's certificate, or that to register with, was exchanged");
            // Made anew with them.
            state.controller = None;
            state.network = None;
        }
        state.facts.device_cert = Some(Digest(device.certificate().der_hash()));
        state.device = Some(device);
        state.onboarding = onboarding;
        Ok(is_another)
    }

    pub(super) async fn introduce(&self, register: bool) -> Result<(), Failure> {
        let object = "onboarding";
        if self.learn_identity()? {
            let text = "another certificate is there; it is told to the controller next";
            return Err(Failure::new(Code::OnboardIdentity, object, text).transient());
        }
        let controller = self.controller(object)?;
        // Whatever register answers, the answer to the next question decides.
        let registered = if register {
            controller.register().await.map(|_| ())
        } else {
            Ok(())
        };
        match controller.device_name().await {
            Ok(answer) => {
                let model = [
                    answer.value.manufacturer.as_str(),
                    answer.value.product_name.as_str(),
                ];
                let hardware_model = if model.iter().all(|m| !m.is_empty()) {
                    model.join(".")
                } else {
                    String::new()
                };
                let mut state = self.state();
                state.facts.name = Some(Name {
                    device: DeviceId(answer.value.uuid),
                    hardware_model,
                });
                state.facts.named_at = Some(self.clock.uptime());
                state.facts.disowned = false;
                state.facts.last_contact = Some(self.clock.now());
                Ok(())
            }
            Err(error) => {
                self.note_cert_miss(&error);
                // The refused registration is the reason that the controller does not know us.
                let error = registered
                    .err()
                    .filter(|e| e.code().is_some() || error.code().is_some())
                    .unwrap_or(error);
                Err(of_call(object, &error))
            }
        }
    }
}
