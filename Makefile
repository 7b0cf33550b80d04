# The menu. Everything runs from a clean clone on Debian 12 as root.
# FILTER=word  tests whose name contains the word      ONCE=1  the demo without a terminal

# What the product and its tests call: guests, networks, images, certificates of tests.
PACKAGES := qemu-system-x86 qemu-utils seabios ovmf dnsmasq-base nftables iproute2 conntrack busybox \
	mtools syslinux syslinux-common fdisk xorriso genisoimage kmod mmdebstrap e2fsprogs curl openssh-server openssh-client iputils-ping procps util-linux strace \
	libtss2-dev libtss2-tctildr0 libtss2-tcti-device0 libtss2-tcti-swtpm0 swtpm swtpm-tools tpm2-tools pkg-config binutils gcc libc6-dev make git ca-certificates
SERVICES := -p supervisor -p zedagent -p reporter -p zedmanager -p volumemgr -p downloader -p verifier -p domainmgr \
	-p zedrouter -p nim -p nodeagent -p vaultmgr -p accessmgr -p newlogd -p tpmmgr -p zedbox -p eve -p evc -p lab -p demo -p bench
# What a device has: the services and the operator's command in one file, and what is linked with the TPM's libraries.
PRODUCT := -p zedbox -p tpmmgr --bin zedbox --bin tpmchip
CARGO := cargo --locked

.PHONY: help deps build demo test nightly fuzz check budget bench lab docs clean

help:
	@echo "deps   install what a fresh machine lacks"
	@echo "demo   a controller and a device on this machine, until Ctrl-C (ONCE=1: prove it and end; TPM=0: without a TPM)"
	@echo "test   every test (FILTER=word: those whose name contains it)"
	@echo "fuzz   the fuzzers of every parser, FUZZ minutes each (TARGET=name: one of them)"
	@echo "nightly  random lives of a device, all faults of its controller, datastore and disk, for long (SEEDS=10000)"
	@echo "check  format, lints, licences, the tree's own rules"
	@echo "budget whether the device keeps to its limits of size, memory and work (BLESS=1: write them)"
	@echo "bench  figures, as tables and in target/bench/"
	@echo "lab    the lab command (ARGS=\"up --uplinks 2\")"
	@echo "docs   write the generated pages"

deps:
	@sh .ci/deps $(PACKAGES)

build: deps
	$(CARGO) build $(SERVICES)

demo: build
	target/debug/demo $(if $(ONCE),--once) $(if $(TPM),--tpm $(if $(filter 0,$(TPM)),false,true))

test: build
	$(CARGO) nextest run --workspace $(if $(FILTER),-E 'test($(FILTER))' --no-tests pass)

fuzz: deps
	@sh .ci/deps g++
	FUZZ=$(or $(FUZZ),10) sh .ci/fuzz $(TARGET)

nightly: deps
	SEEDS=$(or $(SEEDS),10000) ALL=1 $(CARGO) nextest run --cargo-profile nightly --profile nightly -p scenarios \
		-E 'binary(campaign_device) | binary(campaign_controller) | binary(campaign_datastore) | binary(campaign_disk)'

check: deps
	cargo fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	cargo xtask check
	sh .ci/deny

budget: build
	target/debug/bench budget

bench: deps
	$(CARGO) build --release $(PRODUCT)
	$(CARGO) build --release -p evc -p lab -p demo -p bench -p scenarios
	target/release/bench all
	target/release/bench budget --profile release

lab: build
	target/debug/lab $(ARGS)

docs:
	cargo xtask docs

clean:
	-target/debug/lab gc
	rm -rf target
