//! Images with the real tool, seeds read back by other programs.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use vmm::image::{CheckReport, ImageError, QemuImg};
use vmm::qcow2::HeaderError;
use vmm::seed::Seed;
use vmm::spec::{BaseImage, ImageFormat};

const MIB: u64 = 1 << 20;

struct Desk {
    directory: tempfile::TempDir,
    tool: QemuImg,
}

impl Desk {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            tool: QemuImg::default(),
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn qemu_img(&self, args: &[&str]) {
        let mut command = Command::new("qemu-img");
        let status = command
            .current_dir(self.directory.path())
            .args(args)
            .status();
        assert!(status.expect("qemu-utils is installed").success());
    }
}

#[tokio::test]
async fn an_image_is_made_grown_and_checked() {
    let desk = Desk::new();
    let path = desk.at("a disk:1.qcow2");
    desk.tool
        .create(&path, ImageFormat::Qcow2, 8 * MIB)
        .await
        .unwrap();
    let info = desk.tool.admit(&path, ImageFormat::Qcow2).await.unwrap();
    assert_eq!(
        (info.virtual_size, &info.base, info.dirty),
        (8 * MIB, &None, false)
    );
    assert!(info.actual_size > 0 && info.actual_size < MIB);
    let again = desk.tool.create(&path, ImageFormat::Qcow2, MIB).await;
    assert!(matches!(again, Err(ImageError::Exists(_))));

    desk.tool
        .resize(&path, ImageFormat::Qcow2, 16 * MIB)
        .await
        .unwrap();
    desk.tool
        .resize(&path, ImageFormat::Qcow2, 16 * MIB)
        .await
        .unwrap();
    let shrunk = desk.tool.resize(&path, ImageFormat::Qcow2, MIB).await;
    assert!(matches!(shrunk, Err(ImageError::Shrink { .. })));
    let info = desk.tool.info(&path, ImageFormat::Qcow2).await.unwrap();
    assert_eq!(info.virtual_size, 16 * MIB);
    let report = desk.tool.check(&path, ImageFormat::Qcow2).await.unwrap();
    assert_eq!(report, CheckReport::default());
}

#[tokio::test]
async fn an_image_is_converted_with_progress_and_without_change() {
    let desk = Desk::new();
    let raw = desk.at("a.raw");
    let mut file = std::fs::File::create(&raw).unwrap();
    file.write_all(b"first").unwrap();
    file.seek(SeekFrom::Start(5 * MIB)).unwrap();
    file.write_all(b"last").unwrap();
    file.set_len(6 * MIB).unwrap();
    let (qcow2, back) = (desk.at("b.qcow2"), desk.at("c.raw"));
    let mut heard = Vec::new();
    desk.tool
        .convert(&raw, ImageFormat::Raw, &qcow2, ImageFormat::Qcow2, |f| {
            heard.push(f);
        })
        .await
        .unwrap();
    assert!(heard.last().is_some_and(|last| *last > 0.99), "{heard:?}");
    assert!(heard.is_sorted());
    desk.tool
        .convert(&qcow2, ImageFormat::Qcow2, &back, ImageFormat::Raw, |_| {})
        .await
        .unwrap();
    assert_eq!(std::fs::read(&raw).unwrap(), std::fs::read(&back).unwrap());
}

#[tokio::test]
async fn an_overlay_has_its_base() {
    let desk = Desk::new();
    let base = BaseImage {
        path: desk.at("base.qcow2"),
        format: ImageFormat::Qcow2,
    };
    desk.tool
        .create(&base.path, base.format, 4 * MIB)
        .await
        .unwrap();
    let over = desk.at("over.qcow2");
    let small = desk.tool.create_overlay(&over, &base, Some(MIB)).await;
    assert!(matches!(small, Err(ImageError::Shrink { .. })));
    desk.tool
        .create_overlay(&over, &base, Some(9 * MIB))
        .await
        .unwrap();
    let info = desk.tool.info(&over, ImageFormat::Qcow2).await.unwrap();
    assert_eq!(info.virtual_size, 9 * MIB);
    assert_eq!(info.base.as_deref(), Some(base.path.as_path()));
    let admitted = desk.tool.admit(&over, ImageFormat::Qcow2).await;
    assert!(matches!(
        admitted,
        Err(ImageError::Header {
            source: HeaderError::Base,
            ..
        })
    ));
}

#[tokio::test]
async fn images_that_lead_to_other_files_are_refused() {
    let desk = Desk::new();
    desk.qemu_img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        "data_file=d,data_file_raw=on",
        "x",
        "1M",
    ]);
    let path = desk.at("x");
    let info = desk.tool.info(&path, ImageFormat::Qcow2).await.unwrap_err();
    let converted = desk
        .tool
        .convert(
            &path,
            ImageFormat::Qcow2,
            &desk.at("y"),
            ImageFormat::Raw,
            |_| {},
        )
        .await
        .unwrap_err();
    for error in [info, converted] {
        let source = HeaderError::DataFile;
        assert!(matches!(error, ImageError::Header { source: s, .. } if s == source));
    }
    assert!(!desk.at("y").exists());
    // A raw image with the header of another format is its bytes and nothing else.
    let raw = desk.tool.info(&path, ImageFormat::Raw).await.unwrap();
    assert_eq!(raw.virtual_size, std::fs::metadata(&path).unwrap().len());
}

#[tokio::test]
async fn damage_is_found() {
    let desk = Desk::new();
    let path = desk.at("a.qcow2");
    desk.tool
        .create(&path, ImageFormat::Qcow2, 8 * MIB)
        .await
        .unwrap();
    // The first cluster map entry points into the header.
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    let mut table = [0; 8];
    file.read_exact_at(&mut table, 40).unwrap();
    file.write_all_at(&(1_u64 << 63).to_be_bytes(), u64::from_be_bytes(table))
        .unwrap();
    file.write_all_at(
        &((1_u64 << 63) | 0x10000).to_be_bytes(),
        u64::from_be_bytes(table),
    )
    .unwrap();
    let report = desk.tool.check(&path, ImageFormat::Qcow2).await.unwrap();
    assert!(!report.is_usable(), "{report:?}");
    let not_one = desk.at("text");
    std::fs::write(&not_one, "hello").unwrap();
    let error = desk
        .tool
        .check(&not_one, ImageFormat::Qcow2)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("not a qcow2 image"), "{error}");
}

#[tokio::test]
async fn mistakes_are_named() {
    let desk = Desk::new();
    let relative = desk
        .tool
        .create(Path::new("nbd:x"), ImageFormat::Raw, MIB)
        .await;
    assert!(matches!(relative, Err(ImageError::RelativePath(_))));
    let nowhere = desk.at("no/such/dir");
    let failed = desk
        .tool
        .create(&nowhere, ImageFormat::Raw, MIB)
        .await
        .unwrap_err();
    assert!(failed.to_string().contains("No such file"), "{failed}");
    let absent = desk.tool.info(&desk.at("absent"), ImageFormat::Raw).await;
    assert!(matches!(absent, Err(ImageError::Read { .. })));
    let tool = QemuImg::at("/no/such/tool");
    let start = tool
        .create(&desk.at("z"), ImageFormat::Raw, MIB)
        .await
        .unwrap_err();
    assert!(matches!(&start, ImageError::Start { .. }), "{start}");
}

fn seed() -> Seed {
    Seed {
        instance_id: "8f3e-1".into(),
        hostname: "web".into(),
        user_data: (0..200_000_u32).flat_map(u32::to_le_bytes).collect(),
        network_config: Some("version: 2\n".into()),
        vendor_data: None,
    }
}

fn output(program: &str, args: &[&str]) -> Vec<u8> {
    let out = Command::new(program).args(args).output();
    let out = out.unwrap_or_else(|error| panic!("{program} is installed: {error}"));
    assert!(out.status.success(), "{program} {args:?}: {out:?}");
    out.stdout
}

#[test]
fn a_seed_is_read_by_the_usual_tools() {
    let desk = Desk::new();
    let path = desk.at("seed.iso");
    seed().write(&path).unwrap();
    let path = path.to_str().unwrap();
    let label = output("blkid", &["-p", "-o", "value", "-s", "LABEL", path]);
    assert_eq!(label, b"cidata\n");
    let names = String::from_utf8(output("isoinfo", &["-J", "-f", "-i", path])).unwrap();
    for name in ["/meta-data", "/network-config", "/user-data"] {
        assert!(names.contains(name), "{names}");
    }
    let meta = output("isoinfo", &["-J", "-i", path, "-x", "/meta-data;1"]);
    assert_eq!(meta, b"instance-id: 8f3e-1\nlocal-hostname: web\n");
    let primary = output("isoinfo", &["-i", path, "-x", "/META-DATA.;1"]);
    assert_eq!(primary, meta);
    let user = output("isoinfo", &["-J", "-i", path, "-x", "/user-data;1"]);
    assert_eq!(user, seed().user_data);
}
