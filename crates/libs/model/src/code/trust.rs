//! The codes about keys, certificates, secrets and the vault, which come after all others.

/// All codes: those given, and these.
macro_rules! with_trust {
    ($($others:tt)*) => {
        codes! {
            $($others)*
    CipherContext = "cipher.context" {
        meaning: "A secret of the config is encrypted with keys that this device does not have or can't use.",
        causes: [
            "The config refers to a cipher context that is not in it, or to one with a scheme that this version does not know.",
            "The controller's certificate that the context names was not delivered, or its key is not on the curve P-256.",
            "It was encrypted for another key of the device: one from before its TPM was replaced or cleared.",
        ],
        remedy: "`evc device show` tells which certificate the controller encrypts for; `evc device attest` makes the device send its certificates again. Tried again by itself when certificates or config change.",
        properties: ["timer.cert.interval"],
    }
    CipherBlock = "cipher.block" {
        meaning: "A secret of the config can't be decrypted, or is not what it was before it was encrypted.",
        causes: [
            "Its initial value has not 16 bytes, its digest is missing, or it is larger than any such secret.",
            "It was encrypted with other keys than its context names.",
            "The controller put something else into it than its place calls for.",
        ],
        remedy: "Give the secret to the controller again, so that it is encrypted anew. What has the secret is left as it was; everything else goes on.",
        properties: [],
    }
    VerifySignature = "verify.signature" {
        meaning: "The image's signature does not count, so nothing is fetched or made of the image. A volume that was made before goes on.",
        causes: [
            "It is of another file, or was made with another key than the signer's certificate has.",
            "The signer's certificate does not lead to a root in /config/root-certificate.pem, has ended, or is not for signing code.",
            "The signer's key is not on the curve P-256.",
        ],
        remedy: "Sign the file again (`openssl dgst -sha256 -sign KEY -out FILE.sig FILE`) and give the controller the signature with the signer's certificate and those between it and the root (docs/decisions/109-image-signatures.md). Judged again when the config changes.",
        properties: [],
    }
    CipherKey = "cipher.key" {
        meaning: "The device's own key does not answer, so a secret can't be decrypted now.",
        causes: [
            "tpmmgr does not run, or the TPM is busy, locked or broken.",
        ],
        remedy: "`eve check` shows the state of the TPM. Tried again by itself; what was decrypted before goes on.",
        properties: [],
    }
    CipherPlain = "cipher.plain" {
        meaning: "The controller sent a login in the clear, which the device does not use.",
        causes: [
            "A controller that does not encrypt credentials for this device.",
        ],
        remedy: "Let the controller send the login in a cipher block. evc does so for each device that has sent its certificate for key exchange (docs/decisions/103-secrets.md).",
        properties: [],
    }
    AccessKeys = "access.keys" {
        meaning: "A list of keys that are to log in over the network can't be used. None of them gets in by it.",
        causes: [
            "A line has options (command=, from=) before the key, is damaged, or is a key of a type that is not accepted.",
            "There are too many keys, or one is too long.",
        ],
        remedy: "The message names the line and what is wrong with it; give the key as `ssh-keygen` wrote it into the .pub file. Nothing is opened by what can't be read.",
        properties: ["debug.enable.ssh"],
    }
    AccessDisabled = "access.disabled" {
        meaning: "The config authorizes keys to log in over the network, and this device has forbidden that for ever.",
        causes: [
            "There is a file remote_access_disabled in the CONFIG partition.",
            "The CONFIG partition can't be read, so that the file may be there.",
        ],
        remedy: "Take the keys out of the property: they have no effect. Only who installs the device anew can take the file away.",
        properties: ["debug.enable.ssh"],
    }
    AccessLogin = "access.login" {
        meaning: "A way into the device is to be open and is not, because its program could not be started, or is to be closed and could not be ended.",
        causes: [
            "sshd or agetty is not installed in this image, or ends at once; its log says why.",
            "Something else listens on the port.",
            "The supervisor refuses to run it.",
        ],
        remedy: "`eve logs accessmgr` and `eve check sockets` tell what is in the way. Tried again by itself.",
        properties: ["debug.enable.ssh", "debug.enable.console", "debug.enable.vga"],
    }
    AccessFiles = "access.files" {
        meaning: "The list of keys or the device's own key for logins could not be written.",
        causes: [
            "The disk is full, read-only or failing.",
        ],
        remedy: "`eve check storage` tells which. Tried again by itself; nobody gets in before.",
        properties: ["debug.enable.ssh"],
    }
    AccessHardware = "access.hardware" {
        meaning: "The kernel did not switch a USB interface or a screen as it was told to.",
        causes: [
            "A kernel without authorization of USB interfaces (older than 4.4), or without that of consoles.",
            "The device was pulled out at that moment.",
        ],
        remedy: "The message names the file of the kernel. Tried again by itself; until then a keyboard may work that should not.",
        properties: ["debug.enable.usb", "debug.enable.vga"],
    }
    AccessListener = "access.listener" {
        meaning: "A process listens on a socket that no row of the device's table of sockets explains.",
        causes: [
            "Somebody started a program on the device by hand.",
            "A service was taken over, or is of another version than this command.",
        ],
        remedy: "The message names process and address. End it, and find out who started it; a service's process that is ended is started anew by the supervisor. docs/security.md has the table.",
        properties: [],
    }
    OnboardIdentity = "onboard.identity" {
        meaning: "The device's key or certificate could not be made or read.",
        causes: [
            "The CONFIG partition is missing, read-only or full.",
            "A damaged key file.",
        ],
        remedy: "Repair the CONFIG partition. A device whose key is lost has to be added anew at the controller.",
        properties: [],
    }
    OnboardConfig = "onboard.config" {
        meaning: "The CONFIG partition lacks something without which a device can't find or trust its controller.",
        causes: [
            "There is no /config/server, or no /config/root-certificate.pem.",
            "The onboarding certificate or its key is missing or damaged.",
        ],
        remedy: "`eve check identity` names the file. Install again with a complete /config, or add the file.",
        properties: [],
    }
    AttestRefused = "attest.refused" {
        meaning: "The controller does not trust the state of the device's software.",
        causes: [
            "The measured software is not what the controller expects: an update that it was not told of, or a change by somebody else.",
            "The controller does not know the device's attestation certificate.",
        ],
        remedy: "`evc attest show DEVICE` tells what changed; if you know the reason, `evc attest accept DEVICE` lets it in at its next try, eight minutes later at most.",
        properties: [],
    }
    AttestQuote = "attest.quote" {
        meaning: "The TPM gives no quote, so the device can't prove to its controller which software it runs. It never sends an empty proof instead.",
        causes: [
            "The TPM is dead, missing or locked out, or its SHA-256 bank of PCRs is switched off.",
            "tpmmgr is restarting.",
        ],
        remedy: "`eve check` tells the state of the TPM; repair that. Tried again by itself; applications go on, and a controller that insists on a proof sends no config until there is one.",
        properties: [],
    }
    VaultKeeper = "vault.keeper" {
        meaning: "The TPM, or the service that speaks with it, does not answer as the vault needs it.",
        causes: [
            "The TPM is dead, locked out, or has no SHA-256 bank of PCRs.",
            "tpmmgr is restarting.",
        ],
        remedy: "`eve check tpm` tells the state of the TPM. Retried by itself; the vault opens as soon as the TPM answers.",
        properties: [],
    }
    VaultLocked = "vault.locked" {
        meaning: "The vault's key is sealed to other software than what has booted, so images and volumes can't be read. The device waits for the controller's copy of the key.",
        causes: [
            "Firmware, its settings, the boot loader or the OS were changed, other than by an update from the controller. The status names the PCRs.",
            "The disk was put into another device.",
            "The TPM was cleared.",
        ],
        remedy: "Let the controller accept the new measurements (`evc attest`): it then sends its copy of the key, and the vault is sealed anew. If the key is lost for good, set `vault.allow.clean` to its name; all volumes are lost then.",
        properties: ["vault.allow.clean"],
    }
    VaultKey = "vault.key" {
        meaning: "A key was given for the vault, and it is not the one that it is encrypted by.",
        causes: [
            "The controller keeps the key of an older vault of this device.",
            "The copy was damaged, or encrypted to another TPM.",
        ],
        remedy: "Compare the name of the key in `eve get vaultmgr VaultStatus` with what the controller keeps. If the key is lost for good, set `vault.allow.clean` to its name; all volumes are lost then.",
        properties: ["vault.allow.clean"],
    }
    VaultUnencrypted = "vault.unencrypted" {
        meaning: "The device has a TPM, and images and volumes are not encrypted all the same.",
        causes: [
            "The file system of /persist was made without encryption.",
            "The vault had files already when the TPM was first used.",
        ],
        remedy: "The device works; a stolen disk can be read. Install it anew to get an encrypted vault.",
        properties: [],
    }
    VaultForeign = "vault.foreign" {
        meaning: "A directory of the vault is encrypted in a way that is not this device's.",
        causes: [
            "Directories were copied from another device, or changed by hand.",
        ],
        remedy: "The message names the directory. Put it out of the way; the vault makes another.",
        properties: [],
    }
    VaultFileSystem = "vault.file-system" {
        meaning: "The kernel did not carry out what the vault needs: giving a key, encrypting a directory, emptying it.",
        causes: [
            "The disk fails, is full or read-only.",
        ],
        remedy: "`eve check storage` tells which. Retried by itself.",
        properties: [],
    }
    TpmDead = "tpm.dead" {
        meaning: "The TPM does not answer, so the device can neither sign nor decrypt; applications go on.",
        causes: [
            "The TPM was reset or is broken, or its driver is.",
            "Firmware has hidden it after a change of its settings.",
        ],
        remedy: "Look at the kernel's messages about tpm0 and at the firmware's settings; a full power cycle resets the chip. Tried again by itself; no key in a file ever takes its place.",
        properties: [],
    }
    TpmMissing = "tpm.missing" {
        meaning: "The device's keys belong into a TPM, and there is none.",
        causes: [
            "The TPM was switched off in the firmware's settings, or taken out.",
            "The device was installed without a TPM and without saying so.",
        ],
        remedy: "Switch the TPM on. A new device that shall do without needs an empty file soft_key in its CONFIG partition; one that has used a TPM has to be installed anew for that.",
        properties: [],
    }
    TpmKeys = "tpm.keys" {
        meaning: "The keys in the TPM are not those of the device's certificate, or could not be made.",
        causes: [
            "The TPM was cleared in the firmware's settings, or replaced.",
            "The CONFIG partition or the disk comes from another device.",
            "The certificate in the CONFIG partition was exchanged for one of another key.",
            "The TPM has no room for keys, or its owner has a password that is not in /config/tpm_credential.",
        ],
        remedy: "Put the former TPM, disk or CONFIG partition back, or the owner's password into /config/tpm_credential; if the TPM was cleared, the device's identity is lost: install it anew and add it at the controller. Nothing is overwritten.",
        properties: [],
    }
    TpmLockout = "tpm.lockout" {
        meaning: "The TPM is locked out: after too many wrong authorizations it refuses everything that could be guessed.",
        causes: [
            "Somebody tried passwords on the TPM, or another system on this machine did.",
            "Power was cut many times while the TPM worked, which counts as a try on some.",
        ],
        remedy: "It ends by itself after the time that the message tells, with the device left on; find out who tried. The device's own keys have no password and go on working.",
        properties: [],
    }
    TpmNoSha256 = "tpm.no-sha256" {
        meaning: "The TPM's SHA-256 bank of PCRs is switched off: the device can neither attest nor seal its vault's key.",
        causes: [
            "Firmware's settings select SHA-1 only, or SHA-384 only.",
        ],
        remedy: "Select SHA-256 among the PCR banks in the firmware's settings and boot again. Signing and decrypting go on until then.",
        properties: [],
    }
        }
    };
}
