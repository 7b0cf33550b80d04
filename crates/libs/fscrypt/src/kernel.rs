//! The kernel's requests. The one place with `unsafe`: each request hands the kernel a structure of the layout that
//! `linux/fscrypt.h` gives, whose size is part of the request's number.

use std::{ffi::c_void, fs::File};

use rustix::{
    io::{Errno, Result},
    ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode},
};
use zeroize::Zeroize;

use crate::{ID_LEN, KEY_LEN, KeyId, KeyState, MasterKey, Policy};

const BY_IDENTIFIER: u32 = 2;
const AES_256_XTS: u8 = 1;
const AES_256_CTS: u8 = 4;
const NAMES_PADDED_TO_32: u8 = 3;
const VERSION_2: u8 = 2;

const SET_POLICY: Opcode = opcode::read::<[u8; 12]>(b'f', 19);
const GET_POLICY: Opcode = opcode::read_write::<[u8; 9]>(b'f', 22);
const ADD_KEY: Opcode = opcode::read_write::<AddKeyHead>(b'f', 23);
const REMOVE_KEY: Opcode = opcode::read_write::<RemoveKey>(b'f', 24);
const KEY_STATUS: Opcode = opcode::read_write::<KeyStatus>(b'f', 26);

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct KeySpecifier {
    kind: u32,
    reserved: u32,
    identifier: [u8; ID_LEN],
    rest: [u8; 16],
}

impl KeySpecifier {
    fn of(id: KeyId) -> Self {
        Self {
            kind: BY_IDENTIFIER,
            identifier: id.0,
            ..Self::default()
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct AddKeyHead {
    specifier: KeySpecifier,
    raw_size: u32,
    key_id: u32,
    reserved: [u32; 8],
}

#[repr(C)]
struct AddKey {
    head: AddKeyHead,
    raw: [u8; KEY_LEN],
}

impl Drop for AddKey {
    fn drop(&mut self) {
        self.raw.zeroize();
    }
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct RemoveKey {
    specifier: KeySpecifier,
    status_flags: u32,
    reserved: [u32; 5],
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct KeyStatus {
    specifier: KeySpecifier,
    reserved: [u32; 6],
    status: u32,
    status_flags: u32,
    user_count: u32,
    out_reserved: [u32; 13],
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct PolicyV2 {
    version: u8,
    contents: u8,
    names: u8,
    flags: u8,
    log2_data_unit: u8,
    reserved: [u8; 3],
    identifier: [u8; ID_LEN],
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct GetPolicy {
    size: u64,
    policy: PolicyV2,
}

const _: () = {
    assert!(size_of::<AddKeyHead>() == 80);
    assert!(size_of::<RemoveKey>() == 64);
    assert!(size_of::<KeyStatus>() == 128);
    assert!(size_of::<PolicyV2>() == 24);
};

/// A request whose argument the kernel reads, and writes where the request says so.
struct Request<'a, T, const OPCODE: Opcode>(&'a mut T);

// SAFETY: the opcodes and the argument types are paired below as `linux/fscrypt.h` pairs them; the argument is a live,
// exclusive reference to a structure without pointers, of at least the size that the kernel reads and writes.
#[allow(unsafe_code)]
unsafe impl<T, const OPCODE: Opcode> Ioctl for Request<'_, T, OPCODE> {
    type Output = ();
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        OPCODE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::from_mut(self.0).cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> Result<()> {
        Ok(())
    }
}

fn request<T, const OPCODE: Opcode>(dir: &File, argument: &mut T) -> Result<()> {
    // SAFETY: see `Request`.
    #[allow(unsafe_code)]
    unsafe {
        ioctl(dir, Request::<T, OPCODE>(argument))
    }
}

pub(crate) fn add_key(dir: &File, key: &MasterKey) -> Result<()> {
    let mut argument = AddKey {
        head: AddKeyHead {
            specifier: KeySpecifier {
                kind: BY_IDENTIFIER,
                ..KeySpecifier::default()
            },
            raw_size: 32,
            ..AddKeyHead::default()
        },
        raw: *key.bytes(),
    };
    request::<_, ADD_KEY>(dir, &mut argument)
}

pub(crate) fn remove_key(dir: &File, id: KeyId) -> Result<()> {
    let mut argument = RemoveKey {
        specifier: KeySpecifier::of(id),
        ..RemoveKey::default()
    };
    request::<_, REMOVE_KEY>(dir, &mut argument)
}

pub(crate) fn key_state(dir: &File, id: KeyId) -> Result<KeyState> {
    let mut argument = KeyStatus {
        specifier: KeySpecifier::of(id),
        ..KeyStatus::default()
    };
    request::<_, KEY_STATUS>(dir, &mut argument)?;
    Ok(match argument.status {
        2 => KeyState::Present,
        3 => KeyState::InUse,
        _ => KeyState::Absent,
    })
}

pub(crate) fn set_policy(dir: &File, id: KeyId) -> Result<()> {
    let mut argument = PolicyV2 {
        identifier: id.0,
        ..ours()
    };
    request::<_, SET_POLICY>(dir, &mut argument)
}

pub(crate) fn policy(dir: &File) -> Result<Policy> {
    let mut argument = GetPolicy {
        size: 24,
        ..GetPolicy::default()
    };
    match request::<_, GET_POLICY>(dir, &mut argument) {
        // A policy of a form that is longer than ours.
        Err(Errno::OVERFLOW) => return Ok(Policy::Foreign),
        other => other?,
    }
    let found = argument.policy;
    let id = found.identifier;
    let bytes = |policy: PolicyV2| {
        (
            policy.version,
            policy.contents,
            policy.names,
            policy.flags,
            policy.log2_data_unit,
        )
    };
    if bytes(found) == bytes(ours()) {
        Ok(Policy::Key(KeyId(id)))
    } else {
        Ok(Policy::Foreign)
    }
}

fn ours() -> PolicyV2 {
    PolicyV2 {
        version: VERSION_2,
        contents: AES_256_XTS,
        names: AES_256_CTS,
        flags: NAMES_PADDED_TO_32,
        ..PolicyV2::default()
    }
}
