//! The codes: what each means, where it comes from, what helps, and which properties matter.

with_trust! {
    AgentNoEffect = "agent.no-effect" {
        meaning: "An action reported success, and the world is still as it was before.",
        causes: [
            "Something outside the device's control undoes it at once: a person, another program, the hardware.",
            "The service cannot see the state that it changed.",
        ],
        remedy: "The service's log names the action (`eve logs SERVICE`). Look for who undoes it; if nobody does, report it with `eve support-bundle`.",
        properties: [],
    }
    AgentPanic = "agent.panic" {
        meaning: "A part of a service ended by a panic; the service itself goes on.",
        causes: [
            "A bug.",
        ],
        remedy: "Nothing has to be done to keep the device running. Send the evidence below /persist/crash, or an `eve support-bundle`, to the maker.",
        properties: [],
    }
    AgentObserve = "agent.observe" {
        meaning: "A service could not see the state of what it looks after, so it changes nothing until it can.",
        causes: [
            "A file or directory that it may not read, or that is not there.",
            "The kernel, or a program that it asks, does not answer.",
        ],
        remedy: "The message names what could not be read. `eve check sandbox` shows whether the service still has the rights that it needs; retried by itself.",
        properties: [],
    }
    BusWrite = "bus.write" {
        meaning: "An object could not be published, so other services and the controller see an older state.",
        causes: [
            "/run or /persist is full or read-only.",
            "The disk fails.",
        ],
        remedy: "`eve check storage` tells which. Free space on it; the service publishes again by itself.",
        properties: [],
    }
    ConfigParse = "config.parse" {
        meaning: "What the controller sent as config does not decode.",
        causes: [
            "A controller of another version.",
            "A proxy or a middlebox that changes what passes through it.",
        ],
        remedy: "Correct the config at the controller, or try without the proxy. The last good config stays in force.",
        properties: ["timer.config.interval"],
    }
    ConfigSignature = "config.signature" {
        meaning: "The config is not signed by a certificate that the device trusts.",
        causes: [
            "The controller's signing certificate was changed, and the device could not fetch the new one.",
            "Somebody between device and controller changes messages.",
        ],
        remedy: "`eve check cert` shows the certificates that the device has. Check that they are the controller's; the last good config stays in force.",
        properties: ["timer.config.interval", "timer.cert.interval"],
    }
    ConfigForeign = "config.foreign" {
        meaning: "The config is meant for another device.",
        causes: [
            "The controller mixed up two devices, or the device was registered twice.",
        ],
        remedy: "Compare the device's UUID (`eve status`) with the one at the controller and correct it there. The last good config stays in force.",
        properties: ["timer.config.interval"],
    }
    ConfigReference = "config.reference" {
        meaning: "An object of the config refers to another that is not in the config.",
        causes: [
            "An identifier was mistyped.",
            "The object was deleted while others still used it.",
        ],
        remedy: "Add the missing object at the controller, or remove the reference. Nothing that exists is removed because of it.",
        properties: [],
    }
    ConfigInvalid = "config.invalid" {
        meaning: "A value of the config is not acceptable; the object that has it is left as it was.",
        causes: [
            "A value that is out of range, empty, or of a kind that this version does not know.",
            "Two values that contradict each other.",
        ],
        remedy: "Correct the value that the message names, at the controller.",
        properties: [],
    }
    ConfigItem = "config.item" {
        meaning: "A configuration property has an unknown name or a value that is out of range.",
        causes: [
            "A mistyped name.",
            "A value outside of the range that docs/properties.md gives.",
        ],
        remedy: "Correct it at the controller; names and ranges are in docs/properties.md. Until then the last good value counts; other properties are not affected.",
        properties: [],
    }
    ControllerUnreachable = "controller.unreachable" {
        meaning: "The controller did not answer over any port of the device.",
        causes: [
            "The device has no address, no gateway or no DNS (`eve why port`).",
            "A firewall on the way, or a proxy that refuses.",
            "The controller is down.",
        ],
        remedy: "`eve check network` tries name, connection, TLS and answer over every port, and names the step that fails. Retried for ever; applications go on.",
        properties: ["timer.config.interval", "timer.send.timeout", "timer.dial.timeout"],
    }
    ControllerRefused = "controller.refused" {
        meaning: "The controller was reached and refused the request.",
        causes: [
            "403: it knows the device and has not been told whose it is: it was not claimed yet.",
            "401, 404: it does not know the device, or its certificate.",
            "409: another device has the same serial number.",
            "422: it can't read what was sent; 429 and 5xx: it is overloaded or broken.",
        ],
        remedy: "Look the device up at the controller by its serial number, and claim, add or correct it there. Retried by itself.",
        properties: ["timer.config.interval"],
    }
    ControllerTls = "controller.tls" {
        meaning: "No trusted TLS connection to the controller: its TLS certificate is not acceptable.",
        causes: [
            "The certificate has expired, or is made for another name.",
            "The device's clock is wrong.",
            "A proxy that looks into TLS, and whose CA the device does not know.",
            "/config/root-certificate.pem is another controller's.",
        ],
        remedy: "`eve check clock cert controller` tells which. Renew the controller's certificate, set the clock, or give the proxy's CA to the port's config.",
        properties: ["timer.config.interval"],
    }
    ControllerCert = "controller.cert" {
        meaning: "The certificates by which the controller signs its messages are not acceptable.",
        causes: [
            "Their chain does not end in /config/root-certificate.pem.",
            "They have expired, or the device's clock is wrong.",
        ],
        remedy: "`eve check cert` shows them with their dates. Correct them at the controller; the device fetches them again by itself.",
        properties: ["timer.cert.interval"],
    }
    AppNeedsRestart = "app.needs-restart" {
        meaning: "The config asks for other hardware than the guest that runs has.",
        causes: [
            "Memory, processors, volumes, interfaces or user data were changed while it ran.",
        ],
        remedy: "Restart the application at the controller when it suits; until then the guest runs as it was started.",
        properties: [],
    }
    AppDeferred = "app.deferred" {
        meaning: "The device is in maintenance mode and takes on nothing new, so this application waits. What ran before goes on.",
        causes: [
            "Somebody asked for it: in the device's config, or by the property `maintenance.mode`.",
            "The device has a reason of its own, which the message names: its disk, its vault or its TPM.",
        ],
        remedy: "End maintenance mode at the controller, or repair what the message names; the application then starts by itself. `maintenance.mode: disabled` takes on applications whatever the reason.",
        properties: ["maintenance.mode"],
    }
    DatastoreUnsupported = "datastore.unsupported" {
        meaning: "The device can't fetch from a datastore of this type.",
        causes: [
            "A type that this version does not know.",
        ],
        remedy: "Serve the image from a datastore of type HTTP or HTTPS.",
        properties: [],
    }
    DownloadNetwork = "download.network" {
        meaning: "The datastore could not be reached over any port.",
        causes: [
            "No address, gateway or DNS on the ports that downloads may use (`eve why port`).",
            "All usable ports cost more than network.download.max.cost.",
            "A firewall on the way, a proxy that refuses, a datastore that is down or whose name or TLS certificate is wrong.",
        ],
        remedy: "`eve check datastore` tries the connection over every port. Retried by itself with growing pauses; what is here already is kept.",
        properties: ["network.download.max.cost", "timer.download.retry"],
    }
    DownloadRefused = "download.refused" {
        meaning: "The datastore was reached and refuses to give the file.",
        causes: [
            "404: there is no such file: a wrong path in the content tree or in the datastore.",
            "401, 403: wrong or missing credentials.",
        ],
        remedy: "Correct the content tree's URL, the datastore's path or its credentials at the controller, or put the file there. A change is tried at once, otherwise it is tried again by itself.",
        properties: ["timer.download.retry"],
    }
    DownloadShort = "download.short" {
        meaning: "The datastore delivered fewer bytes than it announced.",
        causes: [
            "A connection that broke.",
            "A file that is being replaced at the datastore, or was copied there in part.",
        ],
        remedy: "Nothing at first: it goes on where it stopped. When it repeats, compare the file's size at the datastore with the config.",
        properties: ["timer.download.retry"],
    }
    DownloadTooBig = "download.too-big" {
        meaning: "The file is larger than the config allows, so it was not taken.",
        causes: [
            "A wrong maximum size in the content tree.",
            "Another file than the one that is meant.",
        ],
        remedy: "Correct the size or the URL of the content tree at the controller.",
        properties: ["timer.download.retry"],
    }
    DownloadStalled = "download.stalled" {
        meaning: "No byte arrived for too long, so the connection was given up.",
        causes: [
            "A bad or overloaded link.",
            "A datastore or a proxy that stopped in the middle.",
        ],
        remedy: "It goes on where it stopped by itself. On slow links raise timer.download.stalled.",
        properties: ["timer.download.stalled", "timer.download.retry"],
    }
    DownloadWrite = "download.write" {
        meaning: "The bytes of a download could not be written to the disk.",
        causes: [
            "/persist is full, read-only, or fails.",
        ],
        remedy: "`eve check disk` tells which. Free space, or replace the disk; retried by itself.",
        properties: ["timer.download.retry"],
    }
    VerifyDigest = "verify.digest" {
        meaning: "The bytes of the image are not those that the config names: its SHA-256 is another. Nothing is made of it.",
        causes: [
            "The file at the datastore was replaced or damaged.",
            "The config has the digest of another file.",
        ],
        remedy: "Compare `sha256sum` of the file with the content tree's digest, and correct the one that is wrong. It is fetched again after a pause, and at once when the config changes.",
        properties: ["timer.download.retry"],
    }
    VerifyRead = "verify.read" {
        meaning: "The downloaded file could not be read, so it was not verified.",
        causes: [
            "The disk fails, or the file was removed by somebody else.",
        ],
        remedy: "`eve check disk` and the kernel's log (`eve logs kernel`) tell about the disk; retried by itself.",
        properties: [],
    }
    VerifyWrite = "verify.write" {
        meaning: "The verified copy of an image could not be written.",
        causes: [
            "/persist is full, read-only, or fails.",
        ],
        remedy: "`eve check disk` tells which. Free space, or replace the disk; retried by itself.",
        properties: [],
    }
    VolumeCreate = "volume.create" {
        meaning: "The volume's file could not be made.",
        causes: [
            "An image that is no disk image of the format that the config names.",
            "A disk error.",
        ],
        remedy: "The causes say what was refused. Correct the image or its format at the controller; if it is the disk, see `eve check disk`.",
        properties: [],
    }
    VolumeSpace = "volume.space" {
        meaning: "The volume is not made because it could fill the disk.",
        causes: [
            "Too many or too large volumes for this disk.",
            "Space that is kept for the device itself.",
        ],
        remedy: "Delete volumes that nobody uses, make this one smaller, or lower what is kept for the device. It goes on by itself as soon as there is room.",
        properties: ["storage.dom0.disk.minusage.percent", "storage.dom0.disk.maxusagebytes", "storage.apps.ignore.disk.check"],
    }
    VolumeContent = "volume.content" {
        meaning: "The image that the volume is made of could not be prepared.",
        causes: [
            "The content tree has an error of its own.",
        ],
        remedy: "`eve why volume NAME` leads to the content tree's own error; correct that.",
        properties: [],
    }
    DomainStart = "domain.start" {
        meaning: "The guest could not be started.",
        causes: [
            "QEMU refused the guest's hardware: the message has its words.",
            "A file, a device or memory that it needs is not there.",
        ],
        remedy: "The causes are QEMU's own words; more is in `eve logs domainmgr`. Correct the application's resources at the controller; retried by itself.",
        properties: ["timer.boot.retry", "vmm.accel"],
    }
    DomainCrashed = "domain.crashed" {
        meaning: "The guest ended by itself though it shall run.",
        causes: [
            "The guest's system powered off or panicked.",
            "QEMU was killed, or took more memory than its limit.",
        ],
        remedy: "The guest's last words are in `eve logs --console APP`. It is started again by itself after a pause.",
        properties: ["timer.boot.retry"],
    }
    DomainStalled = "domain.stalled" {
        meaning: "The guest stands still because one of its disks can't be written.",
        causes: [
            "/persist is full, or the disk fails.",
        ],
        remedy: "Free space on /persist (`eve check disk`); the guest goes on by itself where it stopped.",
        properties: [],
    }
    DomainStop = "domain.stop" {
        meaning: "The guest could not be stopped.",
        causes: [
            "A process that is stuck in the kernel, mostly in a disk that does not answer.",
            "The supervisor does not answer.",
        ],
        remedy: "See the kernel's log (`eve logs kernel`). Retried by itself; a process that is stuck for good needs a reboot.",
        properties: [],
    }
    DomainQmp = "domain.qmp" {
        meaning: "QEMU does not answer on its control socket, so the guest's state is not known. The guest itself may be well.",
        causes: [
            "A machine that is overloaded.",
            "A QEMU that hangs.",
        ],
        remedy: "Retried by itself. If it stays so while the machine is idle, restart the application at the controller.",
        properties: [],
    }
    MemoryBudget = "domain.memory" {
        meaning: "The guest is not started because there is not enough memory for it.",
        causes: [
            "Too many or too large guests.",
        ],
        remedy: "Stop another application, give this one less memory, or allow it to be scarce. It starts by itself when there is enough.",
        properties: ["memory.apps.ignore.check"],
    }
    NetworkBridge = "network.bridge" {
        meaning: "A bridge or an interface of a network instance could not be made.",
        causes: [
            "A foreign interface has the same name.",
            "The kernel lacks a feature.",
        ],
        remedy: "The causes are the kernel's own words. Remove the foreign interface, if there is one; retried by itself.",
        properties: [],
    }
    NetworkDhcpDns = "network.dnsmasq" {
        meaning: "The DHCP and DNS server of a network instance does not run, so guests get no address from it.",
        causes: [
            "Another program uses its port on the bridge's address.",
            "dnsmasq is not installed, or refuses its configuration.",
        ],
        remedy: "Its own words are in `eve logs zedrouter/`; it is started again by itself.",
        properties: [],
    }
    NetworkRules = "network.rules" {
        meaning: "The packet filter could not be loaded. The former rules stay in force, and nothing new is let through.",
        causes: [
            "The kernel lacks a feature of nftables.",
            "A rule of the config that can't be said in the filter's language.",
        ],
        remedy: "The causes name the rule or the feature. Correct the rule at the controller; retried by itself.",
        properties: [],
    }
    NetworkSubnet = "network.subnet" {
        meaning: "A network instance uses addresses that overlap with another network's, so it is not made.",
        causes: [
            "Two network instances with the same subnet.",
            "A network instance with the subnet of the network at one of the ports.",
        ],
        remedy: "Give each network instance a subnet of its own, and none that a port's network uses.",
        properties: [],
    }
    NetworkAddresses = "network.addresses" {
        meaning: "No address of the network instance is free for an interface of the application.",
        causes: [
            "The range has fewer addresses than there are interfaces.",
            "Another interface has the address that the config fixes for this one.",
            "The address that the config fixes is outside of the network's subnet.",
        ],
        remedy: "Give the network instance a larger range, remove an application from it, or fix another address.",
        properties: [],
    }
    NetworkPortMap = "network.port-map" {
        meaning: "Two rules want the same external port of the device; the one that had it first keeps it.",
        causes: [
            "Two applications, or two rules of one, map the same port.",
        ],
        remedy: "Give one of them another external port at the controller.",
        properties: [],
    }
    NetworkMissing = "network.missing" {
        meaning: "The network instance that the application shall be in is not there.",
        causes: [
            "It is not in the config, or it is not up yet.",
        ],
        remedy: "Add it to the config; if it is there, see `eve why network`.",
        properties: [],
    }
    PortMissing = "port.missing" {
        meaning: "A port of the config does not exist on this device.",
        causes: [
            "A wrong interface name in the device model or the port's config.",
            "Hardware that is not plugged in, or has no driver.",
        ],
        remedy: "Compare the name with `ip link`; correct it at the controller, or plug the hardware in. Taken up by itself when it comes.",
        properties: ["network.fallback.any.eth"],
    }
    PortDhcp = "port.dhcp" {
        meaning: "No DHCP server answered on the port.",
        causes: [
            "A cable in the wrong socket, a wrong VLAN, a switch port that is closed.",
            "There is no DHCP server, or none with a free address.",
        ],
        remedy: "Check the network that the port is plugged into, or give the port a static address. Retried by itself.",
        properties: [],
    }
    PortAddress = "port.address" {
        meaning: "An address or a route of the port could not be set.",
        causes: [
            "Another interface has the same address.",
            "A gateway that is not in the port's subnet.",
        ],
        remedy: "The causes are the kernel's own words. Correct the port's config at the controller; retried by itself.",
        properties: [],
    }
    PortDns = "port.dns" {
        meaning: "DNS does not lead to the server: no DNS server of the port answers, or none knows the name.",
        causes: [
            "A firewall that drops DNS, or servers that are down.",
            "Wrong servers in the port's config or from its DHCP server.",
            "A name in the config that is mistyped, or known in another network only.",
        ],
        remedy: "`eve check dns` asks every server. Correct the servers in the port's config or at the DHCP server, or the name; retried by itself.",
        properties: [],
    }
    UnitCrashed = "unit.crashed" {
        meaning: "A service or one of its helpers ended unexpectedly. Guests and other services go on.",
        causes: [
            "A bug; a file or a device that is not there.",
        ],
        remedy: "It is started again by itself, with growing pauses. Its last words are in `eve logs SERVICE`, the evidence is below /persist/crash; report it with `eve support-bundle`.",
        properties: [],
    }
    UnitForbidden = "unit.forbidden" {
        meaning: "The kernel ended a service or a helper because it made a system call that no unit may make.",
        causes: [
            "A bug in an update, or a library that works in another way than the one it was tested with.",
            "Somebody took the service over and tries to get further.",
        ],
        remedy: "Take it seriously: keep the evidence below /persist/crash, and the line `type=1326` of the kernel's log (`eve logs kernel`), which has the number of the call, and report both. It is started again by itself.",
        properties: [],
    }
    UnitMemory = "unit.memory" {
        meaning: "The kernel ended a service or a helper at its memory limit. Others are not affected.",
        causes: [
            "A leak, or more objects than the limit was made for.",
            "A guest's QEMU that needs more than its overhead allows for.",
        ],
        remedy: "It is started again by itself. `eve check services.memory` shows who is near the limit; report it with `eve support-bundle`.",
        properties: [],
    }
    UnitHung = "unit.hung" {
        meaning: "A service gave no sign of life in time, so the supervisor ended it.",
        causes: [
            "A deadlock, which is a bug.",
            "A machine that is overloaded, or a disk that does not answer.",
        ],
        remedy: "It is started again by itself; evidence is below /persist/crash. If it repeats, look at the load and at the kernel's log (`eve logs kernel`).",
        properties: [],
    }
    UnitStart = "unit.start" {
        meaning: "A service or one of its helpers could not be started.",
        causes: [
            "A program that is missing or may not be executed.",
            "A directory or a right that it needs.",
        ],
        remedy: "The causes say what was missing. Retried with growing pauses.",
        properties: [],
    }
    SupervisorUnreachable = "supervisor.unreachable" {
        meaning: "The supervisor does not answer, so nothing can be started or stopped. What runs goes on.",
        causes: [
            "It is being started again.",
        ],
        remedy: "Nothing at first: it comes back by itself and finds what runs. If it stays away, see `eve check services` and the kernel's log.",
        properties: [],
    }
    LogStore = "log.store" {
        meaning: "Log files can't be written or read. Lines stay where they were printed, and are taken from there later.",
        causes: [
            "/persist is full, read-only, or fails.",
        ],
        remedy: "Free space on /persist (`eve check disk`); it goes on by itself. Lines are lost only when a unit prints more than its log holds until then.",
        properties: [],
    }
    ReportRefused = "report.refused" {
        meaning: "The controller refused a report for good, and has an older state of the object.",
        causes: [
            "The controller does not know this kind of message: it is of another version.",
        ],
        remedy: "The message is kept (`eve get reporter DeliveryJournal`). Update the controller; the object's next change is reported as usual.",
        properties: [],
    }
}
