//! One vCPU that counts down and says that it is done: the guest of [`crate::probe`].
//!
//! Long mode with paging, as a booted guest has it, because hosts that emulate kernel mode treat it
//! differently from real mode. Called in a child process only: [`run_loop`] may never return.
//!
//! The only unsafe code of the crate: the kernel is told which memory is the guest's.

#![allow(unsafe_code)]

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use thiserror::Error;

const PAGE: usize = 4096;
/// The guest's memory: one large page, mapped where it lies.
const PAGES: usize = 512;
/// Where things lie in the guest's memory: its code, then three levels of page tables, a page each.
const CODE: usize = 0x1000;
const PML4: usize = 0x2000;
const PDPT: usize = 0x3000;
const PD: usize = 0x4000;
const STACK: u64 = 0x8000;
/// Page table entry: present and writable; and, at the lowest level, a page of 2 MiB.
const PRESENT: u64 = 0x3;
const LARGE: u64 = 0x80;
/// The serial port, which nobody serves here: a write to it ends `KVM_RUN`.
const PORT: u16 = 0x3f8;
const DONE: u8 = b'K';
/// Three pages below 4 GiB that KVM needs on Intel CPUs, away from the guest's memory.
const TSS: usize = 0xfffb_d000;
/// The only version of the interface that ever was.
const API_VERSION: i32 = 12;
/// CR0 with paging and protection, CR4 with PAE, EFER with long mode.
const CR0: u64 = 0x8005_0033;
const CR4_PAE: u64 = 0x20;
const EFER_LONG: u64 = 0x500;

/// Why the loop did not end as it should.
#[derive(Debug, Error)]
pub(crate) enum LoopError {
    /// A step of making or running the VM failed.
    #[error("{step}: {source}")]
    Step {
        step: &'static str,
        source: kvm_ioctls::Error,
    },
    /// The kernel speaks another version.
    #[error("API version {0} instead of {API_VERSION}")]
    Version(i32),
    /// The vCPU stopped for another reason.
    #[error("the vCPU stopped with {0}")]
    Exit(String),
}

#[repr(C, align(4096))]
#[derive(Clone)]
struct Page([u8; PAGE]);

/// Runs `turns` turns on a vCPU of its own. `running` is called right before the vCPU starts.
pub(crate) fn run_loop(turns: u32, running: impl FnOnce()) -> Result<(), LoopError> {
    let mut memory = guest_memory(turns);
    let kvm = Kvm::new().map_err(at("opening /dev/kvm"))?;
    let version = kvm.get_api_version();
    if version != API_VERSION {
        return Err(LoopError::Version(version));
    }
    let vm = kvm.create_vm().map_err(at("making a VM"))?;
    vm.set_tss_address(TSS).map_err(at("placing the TSS"))?;
    let result = run_in(&vm, &mut memory, running);
    // The VM is closed before its memory is freed.
    drop(vm);
    drop(memory);
    result
}

fn run_in(vm: &VmFd, memory: &mut [Page], running: impl FnOnce()) -> Result<(), LoopError> {
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: (PAGES * PAGE) as u64,
        userspace_addr: memory.as_mut_ptr() as u64,
    };
    // SAFETY: the region is exactly `memory`: page-aligned (`Page`), PAGES pages long, mapped and
    // writable. The caller keeps it until the VM and, made below, its vCPU are closed, and nobody
    // reads or writes it meanwhile, so that the guest's writes race with nothing.
    unsafe { vm.set_user_memory_region(region) }.map_err(at("giving it memory"))?;
    let mut vcpu = vm.create_vcpu(0).map_err(at("making a vCPU"))?;
    enter_long_mode(&vcpu)?;
    running();
    match vcpu.run().map_err(at("running the vCPU"))? {
        VcpuExit::IoOut(PORT, [DONE]) => Ok(()),
        other => Err(LoopError::Exit(format!("{other:?}"))),
    }
}

fn at(step: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> LoopError {
    move |source| LoopError::Step { step, source }
}

/// The program and the page tables that map the first 2 MiB to themselves.
fn guest_memory(turns: u32) -> Vec<Page> {
    let mut memory = vec![Page([0; PAGE]); PAGES];
    let mut put = |at: usize, bytes: &[u8]| {
        memory[at / PAGE].0[at % PAGE..][..bytes.len()].copy_from_slice(bytes);
    };
    put(CODE, &program(turns));
    put(PML4, &(PDPT as u64 | PRESENT).to_le_bytes());
    put(PDPT, &(PD as u64 | PRESENT).to_le_bytes());
    put(PD, &(LARGE | PRESENT).to_le_bytes());
    memory
}

/// ```text
///    mov  ecx, turns
/// 1: dec  ecx
///    jnz  1b
///    mov  dx, 0x3f8
///    mov  al, 'K'
///    out  dx, al
///    hlt
/// ```
fn program(turns: u32) -> Vec<u8> {
    let [port_low, port_high] = PORT.to_le_bytes();
    let mut code = vec![0xb9];
    code.extend_from_slice(&turns.to_le_bytes());
    code.extend_from_slice(&[0xff, 0xc9, 0x75, 0xfc]);
    code.extend_from_slice(&[0x66, 0xba, port_low, port_high]);
    code.extend_from_slice(&[0xb0, DONE, 0xee, 0xf4]);
    code
}

fn enter_long_mode(vcpu: &VcpuFd) -> Result<(), LoopError> {
    let mut system: kvm_sregs = vcpu.get_sregs().map_err(at("reading system registers"))?;
    let segment = kvm_segment {
        limit: u32::MAX,
        present: 1,
        s: 1,
        g: 1,
        ..kvm_segment::default()
    };
    system.cs = kvm_segment {
        selector: 8,
        type_: 11,
        l: 1,
        ..segment
    };
    let data = kvm_segment {
        selector: 16,
        type_: 3,
        db: 1,
        ..segment
    };
    (system.ds, system.es, system.ss) = (data, data, data);
    system.cr3 = PML4 as u64;
    system.cr4 = CR4_PAE;
    system.cr0 = CR0;
    system.efer = EFER_LONG;
    vcpu.set_sregs(&system)
        .map_err(at("setting system registers"))?;
    let general = kvm_regs {
        rip: CODE as u64,
        rsp: STACK,
        rflags: 2,
        ..kvm_regs::default()
    };
    vcpu.set_regs(&general).map_err(at("setting registers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_the_documented_one() {
        let code = program(0x0102_0304);
        let expected = [
            0xb9, 4, 3, 2, 1, 0xff, 0xc9, 0x75, 0xfc, 0x66, 0xba, 0xf8, 0x03, 0xb0, b'K', 0xee,
            0xf4,
        ];
        assert_eq!(code, expected);
    }

    #[test]
    fn the_page_tables_map_the_first_page_to_itself() {
        let memory = guest_memory(1);
        assert_eq!(&memory[2].0[..8], &0x3003_u64.to_le_bytes());
        assert_eq!(&memory[3].0[..8], &0x4003_u64.to_le_bytes());
        assert_eq!(&memory[4].0[..8], &0x83_u64.to_le_bytes());
    }
}
