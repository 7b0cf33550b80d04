//! The states in which a device can be stuck, as far as it gets there without real hardware and real services' ends.

use std::time::Duration;

use eve::why::{
    Asked,
    Kind::{
        App, Blob, Certificates, Config, ContentTree, Controller, Datastore, Device as TheDevice,
        Dhcp, Download, Guest, Interfaces, NetworkInstance, Onboarding, Port, Property, Report,
        Volume,
    },
};
use model::code::Code;
use scenarios::sim::{AppWish, Device, Part, Reach, Wish, app_id};

use crate::stuck::{MINUTE, Stuck};

fn want(device: &mut Device, change: impl FnOnce(&mut Wish)) {
    device.machine.with(|s| s.evc.want(change));
}

fn app(wish: &mut Wish) -> &mut AppWish {
    wish.apps.entry(1).or_default()
}

fn without(wish: &mut Wish, part: Part) {
    app(wish);
    wish.broken.insert(part);
}

/// The kernel tells of it, too.
fn unplug(device: &mut Device) {
    device.machine.with(|s| {
        s.kernel.plug(false);
        s.stir("nim");
        s.stir("zedrouter");
    });
}

pub(crate) fn images() -> Vec<Stuck> {
    const TO_DOWNLOAD: &[eve::why::Kind] = &[App, Volume, ContentTree, Blob, Download];
    vec![
        Stuck::app("the datastore does not answer")
            .before(|s| s.datastore.down = true)
            .fault(Download, Code::DownloadNetwork, "no answer")
            .by(TO_DOWNLOAD)
            .retry(1, 600)
            .property("timer.download.retry"),
        Stuck::app("the datastore has no such file")
            .before(|s| s.datastore.refuses = true)
            .fault(Download, Code::DownloadRefused, "404")
            .by(TO_DOWNLOAD)
            .retry(60, 600)
            .property("timer.download.retry"),
        Stuck::app("transfers break off")
            .before(|s| s.datastore.breaks_one_in = 1)
            .fault(Download, Code::DownloadShort, "broke")
            .by(TO_DOWNLOAD)
            .retry(1, 600)
            .property("timer.download.retry"),
        Stuck::app("the file is another one")
            .before(|s| s.datastore.wrong = true)
            .fault(Blob, Code::VerifyDigest, "")
            .by(&[App, Volume, ContentTree, Blob])
            .retry(60, 600)
            .property("timer.download.retry"),
        Stuck::app("the disk is full")
            .before(|s| s.disk.filler = s.disk.total)
            .fault(Volume, Code::VolumeSpace, "0 bytes are available")
            .by(&[App, Volume])
            .property("storage.dom0.disk.minusage.percent"),
        Stuck::app("no datastore in the config")
            .wish(|wish| without(wish, Part::Datastore))
            .fault(Datastore, Code::ConfigReference, "not in the config")
            .by(&[App, Volume, ContentTree, Datastore]),
        Stuck::app("no content tree in the config")
            .wish(|wish| without(wish, Part::Tree(1)))
            .fault(ContentTree, Code::ConfigReference, "not in the config")
            .by(&[App, Volume, ContentTree]),
        Stuck::app("no volumes in the config")
            .wish(|wish| without(wish, Part::Volumes(1)))
            .fault(
                App,
                Code::ConfigReference,
                "is not (correctly) in the config",
            )
            .by(&[App]),
        Stuck::of(
            "a volume of an image that is not there",
            Asked::Volume,
            "disk of app 1",
        )
        .before(|s| s.datastore.refuses = true)
        .fault(Download, Code::DownloadRefused, "404")
        .by(&[Volume, ContentTree, Blob, Download])
        .retry(60, 600),
        Stuck::app("a purge waits for room")
            .then(|device| {
                device.machine.with(|s| s.disk.filler = s.disk.total);
                want(device, |wish| app(wish).purge += 1);
            })
            .fault(Volume, Code::VolumeSpace, "0 bytes are available")
            .by(&[App, Volume])
            .property("storage.apps.ignore.disk.check"),
    ]
}

pub(crate) fn networks() -> Vec<Stuck> {
    vec![
        Stuck::of("the cable was never in", Asked::Onboarding, "onboarding")
            .before(|s| s.kernel.plug(false))
            .waits(Port, "no carrier")
            .by(&[Onboarding, Port]),
        Stuck::of("no DHCP server", Asked::Onboarding, "onboarding")
            .before(|s| s.kernel.server = false)
            .fault(Dhcp, Code::PortDhcp, "no DHCP server")
            .by(&[Onboarding, Port, Dhcp])
            .retry(0, 120),
        Stuck::of("the port lost its cable", Asked::Port, "eth0")
            .then(unplug)
            .waits(Port, "no carrier")
            .by(&[Port]),
        Stuck::app("an image behind a port that lost its cable")
            .before(|s| s.datastore.breaks_one_in = 1)
            .then_at_once(unplug)
            .waits(Port, "no carrier")
            .by(&[App, Volume, ContentTree, Blob, Download, Datastore, Port]),
        Stuck::app("a running application whose network lost its port")
            .then(unplug)
            .waits(Port, "no carrier")
            .by(&[App, NetworkInstance, Port]),
        Stuck::of(
            "the controller behind a port that lost its cable",
            Asked::Config,
            "config",
        )
        .then(unplug)
        .waits(Port, "no carrier")
        .by(&[Config, Port]),
        Stuck::app("no such network instance")
            .wish(|wish| without(wish, Part::Network))
            .fault(App, Code::ConfigReference, "network instance")
            .by(&[App]),
        Stuck::app("nobody runs the DHCP server of the network")
            .before(|s| s.guests.away = true)
            .fault(
                NetworkInstance,
                Code::SupervisorUnreachable,
                "does not answer",
            )
            .by(&[App, Interfaces, NetworkInstance]),
    ]
}

pub(crate) fn guests() -> Vec<Stuck> {
    vec![
        Stuck::app("no memory in the config")
            .wish(|wish| without(wish, Part::Memory(1)))
            .fault(App, Code::ConfigInvalid, "memory is 0")
            .by(&[App]),
        Stuck::app("more memory than there is")
            .wish(|wish| app(wish).memory_mib = 64 << 10)
            .fault(Guest, Code::MemoryBudget, "it needs 65616 MiB")
            .by(&[App, Guest])
            .property("memory.apps.ignore.check"),
        Stuck::app("nobody starts the guest")
            .wish(|wish| app(wish).vif = false)
            .before(|s| s.guests.away = true)
            .fault(Guest, Code::DomainStart, "the supervisor does not answer")
            .by(&[App, Guest])
            .retry(1, 600)
            .property("timer.boot.retry"),
        Stuck::app("QEMU was killed")
            .then(|device| device.machine.with(|s| s.kill_guest(app_id(1), s.now())))
            .later(Duration::from_secs(30))
            .fault(Guest, Code::DomainCrashed, "killed by signal 9")
            .by(&[App, Guest])
            .retry(500, 600)
            .property("timer.boot.retry"),
        Stuck::app("the start is delayed")
            .wish(|wish| app(wish).delay = 600)
            .progress(App, "delayed")
            .by(&[App])
            .retry(300, 600),
        Stuck::app("other memory than the guest has")
            .then(|device| want(device, |wish| app(wish).memory_mib += 64))
            .fault(App, Code::AppNeedsRestart, "until it is restarted")
            .by(&[App]),
        Stuck::app("maintenance mode by the config")
            .wish(|wish| {
                app(wish);
                wish.maintenance = true;
            })
            .waits_for(
                App,
                Code::AppDeferred,
                "takes on nothing new: it was asked for",
            )
            .by(&[App])
            .property("maintenance.mode"),
        Stuck::app("applications are stopped by command")
            .then(|device| want(device, |wish| wish.shutdown += 1))
            .waits(TheDevice, "by command; they start again at the next boot")
            .by(&[App, TheDevice]),
        Stuck::app("a reboot waits for a guest that does not end")
            .wish(|wish| {
                app(wish);
                let item = ("timer.config.interval".to_owned(), "5".to_owned());
                wish.items.extend([item]);
            })
            .then(|device| {
                device.machine.with(|s| s.deafen(app_id(1)));
                want(device, |wish| wish.reboot += 1);
            })
            .later(Duration::from_secs(12))
            .progress(Guest, "asked to power off")
            .by(&[App, Guest])
            .retry(1, 600),
    ]
}

pub(crate) fn controller() -> Vec<Stuck> {
    let onboarding = |name| Stuck::of(name, Asked::Onboarding, "onboarding");
    let config = |name| Stuck::of(name, Asked::Config, "config");
    vec![
        onboarding("the controller does not answer")
            .before(|s| s.evc.reach = Reach::Down)
            .fault(Controller, Code::ControllerUnreachable, "no answer")
            .by(&[Onboarding, Certificates, Controller])
            .retry(1, 300)
            .property("timer.config.interval"),
        onboarding("the controller refuses the device")
            .before(|s| s.evc.reach = Reach::Refuses(403))
            .fault(Certificates, Code::ControllerRefused, "403")
            .by(&[Onboarding, Certificates])
            .retry(1, 300),
        config("the controller went away")
            .then(|device| device.machine.with(|s| s.evc.reach = Reach::Down))
            .fault(Controller, Code::ControllerUnreachable, "no answer")
            .by(&[Config, Controller])
            .retry(0, 120)
            .property("timer.config.interval"),
        config("the controller forgot the device")
            .then(|device| device.machine.with(|s| s.evc.reach = Reach::Refuses(404)))
            .fault(Config, Code::ControllerRefused, "404")
            .by(&[Config])
            .retry(0, 120),
        config("the controller does not believe the device")
            .then(|device| device.machine.with(|s| s.evc.reach = Reach::Refuses(401)))
            .fault(Config, Code::ControllerRefused, "401")
            .by(&[Config])
            .retry(0, 120),
        config("the controller is overloaded")
            .then(|device| device.machine.with(|s| s.evc.reach = Reach::Refuses(503)))
            .fault(Config, Code::ControllerRefused, "503")
            .by(&[Config])
            .retry(0, 120),
        config("the config of another device")
            .then(|device| want(device, |wish| wish.foreign = true))
            .fault(
                Config,
                Code::ConfigForeign,
                "the last good config stays in force",
            )
            .by(&[Config])
            .property("timer.config.interval"),
        config("a property is refused")
            .then(|device| {
                want(device, |wish| {
                    let item = ("timer.config.interval".to_owned(), "1".to_owned());
                    wish.items.extend([item]);
                });
            })
            .fault(Property, Code::ConfigItem, "from 5 to 86400")
            .by(&[Config, Property])
            .property("timer.config.interval"),
        config("the controller is away since the boot")
            .then(|device| {
                device.machine.with(|s| s.evc.reach = Reach::Down);
                device.power_cut(MINUTE);
            })
            .later(10 * MINUTE)
            .fault(Controller, Code::ControllerUnreachable, "no answer")
            .by(&[Config, Controller])
            .retry(0, 120),
        Stuck::of("a report that nobody takes", Asked::Report, "device")
            .then(|device| device.machine.with(|s| s.evc.reach = Reach::Refuses(422)))
            .later(15 * MINUTE)
            .fault(Report, Code::ReportRefused, "refused")
            .by(&[Report])
            .retry(1, 900),
        Stuck::app("an application that the controller does not know the state of")
            .then(|device| {
                device.machine.with(|s| {
                    s.evc.reach = Reach::Down;
                    s.kill_guest(app_id(1), s.now());
                });
            })
            .fault(Guest, Code::DomainCrashed, "killed by signal 9")
            .by(&[App, Guest])
            .retry(1, 600),
    ]
}
