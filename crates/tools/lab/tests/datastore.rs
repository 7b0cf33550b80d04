//! The datastore over real sockets and TLS, with curl as a client that nobody here wrote.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use lab::{Datastore, Trouble, World};
use std::process::{Command, Output};

struct Client<'a> {
    world: &'a World,
    datastore: &'a Datastore,
}

impl Client<'_> {
    fn get(&self, path: &str, arguments: &[&str]) -> Output {
        let root = self.world.dir().join("root.pem");
        std::fs::write(&root, self.datastore.root_pem()).unwrap();
        self.world
            .outside()
            .run(|| {
                Command::new("curl")
                    .args(["-sS", "--max-time", "5", "--resolve"])
                    .arg("datastore.lab.internal:443:198.51.100.20")
                    .arg("--cacert")
                    .arg(&root)
                    .args(arguments)
                    .arg(self.datastore.url(path))
                    .output()
                    .unwrap()
            })
            .unwrap()
    }
}

#[test]
fn serves_ranges_and_misbehaves_on_request() {
    let world = World::builder().build().unwrap();
    let datastore = world.datastore().unwrap();
    let client = Client {
        world: &world,
        datastore,
    };
    let image: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let file = world.dir().join("image");
    std::fs::write(&file, &image).unwrap();
    datastore.publish_file("/image", &file);
    datastore.publish_bytes("/small", &b"0123456789"[..]);

    assert_eq!(client.get("/image", &[]).stdout, image);
    assert_eq!(
        client.get("/image", &["-r", "1000000-"]).stdout,
        image[1_000_000..]
    );
    assert_eq!(client.get("/small", &["-r", "2-4"]).stdout, b"234");
    let missing = client.get("/missing", &["-w", "%{http_code}"]);
    assert_eq!(missing.stdout, b"404");

    datastore.trouble_times("/image", Trouble::Reset { after: 500_000 }, 1);
    let reset = client.get("/image", &[]);
    assert!(!reset.status.success(), "a reset must be an error");
    assert!(reset.stdout.len() <= 500_000 && image.starts_with(&reset.stdout));
    assert_eq!(
        client.get("/image", &[]).stdout,
        image,
        "one trouble was asked for"
    );

    datastore.trouble("/small", Trouble::Close { after: 4 });
    let short = client.get("/small", &[]);
    assert_eq!(
        (short.status.code(), short.stdout),
        (Some(18), b"0123".to_vec())
    );
    datastore.trouble("/small", Trouble::Stall { after: 4 });
    assert_eq!(
        client.get("/small", &["--max-time", "1"]).status.code(),
        Some(28)
    );
    datastore.trouble("/small", Trouble::WrongLength(20));
    assert_eq!(client.get("/small", &[]).status.code(), Some(18));
    datastore.trouble("/small", Trouble::Flip { at: 3 });
    assert_eq!(client.get("/small", &["-r", "2-"]).stdout, b"22456789");
    datastore.trouble("/small", Trouble::NoRange);
    assert_eq!(
        client.get("/small", &["-H", "Range: bytes=5-"]).stdout,
        b"0123456789"
    );
    datastore.trouble("/small", Trouble::Status(503));
    assert_eq!(client.get("/small", &["-w", "%{http_code}"]).stdout, b"503");
    datastore.trouble(
        "/small",
        Trouble::Slow {
            bytes_per_second: 20,
        },
    );
    let started = std::time::Instant::now();
    assert_eq!(client.get("/small", &[]).stdout, b"0123456789");
    assert!(started.elapsed().as_millis() >= 400);
    datastore.clear("/small");
    assert_eq!(client.get("/small", &[]).stdout, b"0123456789");

    let answered = datastore.answered();
    let resumed = answered
        .iter()
        .find(|one| one.range.as_deref() == Some("bytes=1000000-"))
        .unwrap();
    assert_eq!((resumed.status, resumed.sent), (206, 200_000));
}
