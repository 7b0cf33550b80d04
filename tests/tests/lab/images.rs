//! Images that somebody vouches for, with the tools that people use: openssl signs, the controller lets them.

use std::{fs, path::Path, process::Command};

use model::{
    code::Code,
    topics::{DOWNLOADER_CONFIG, SIGNATURE_STATUS},
};

use crate::support::{PATIENCE, answers, app, manifest, onboarded};

fn openssl(dir: &Path, arguments: &str) {
    let done = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(done.status.success(), "openssl {arguments}: {done:?}");
}

#[test]
fn trust_a_signed_image_runs_and_a_strangers_is_not_even_fetched() {
    let stage = onboarded(1);
    let dir = tempfile::tempdir().unwrap();
    let image = stage.images().join("tiny.qcow2");
    let path = |name: &str| dir.path().join(name).display().to_string();
    let request = "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    for name in ["builder", "stranger"] {
        openssl(
            dir.path(),
            &format!("{request} -keyout {name}.key -out {name}.csr -subj /CN={name}"),
        );
        let sign = format!("dgst -sha256 -sign {name}.key -out {name}.sig");
        openssl(dir.path(), &format!("{sign} {}", image.display()));
    }
    openssl(
        dir.path(),
        "req -x509 -extensions v3_req -key stranger.key -subj /CN=stranger -days 10 -out stranger.pem",
    );
    let chain = Command::new(lab::device::built_binaries().unwrap().join("evc"))
        .args(["pki", "--dir"])
        .arg(stage.evc_dir())
        .args([
            "image-signer",
            &path("builder.csr"),
            "--name",
            "the image builder",
        ])
        .output()
        .unwrap();
    assert!(chain.status.success(), "{chain:?}");
    fs::write(dir.path().join("builder.pem"), &chain.stdout).unwrap();

    let deploy = |signature: &str, signer: &str| {
        let signed = ["--signature", &path(signature), "--signer", &path(signer)];
        stage
            .deploy(&manifest(), "edge", "tiny.qcow2", &signed)
            .unwrap();
    };
    for (signature, signer, named) in [
        ("stranger.sig", "stranger.pem", "does not lead to a root"),
        ("stranger.sig", "builder.pem", "did not sign this image"),
    ] {
        deploy(signature, signer);
        stage
            .wait("the signature is refused", PATIENCE, || {
                let fault = app(&stage)?.fault;
                Ok(
                    fault
                        .is_some_and(|f| f.code == Code::VerifySignature && f.text.contains(named)),
                )
            })
            .unwrap();
        assert!(stage.why().contains("verify.signature"), "{}", stage.why());
        let bus = stage.bus().unwrap();
        let asked = bus.read(&DOWNLOADER_CONFIG).unwrap().unwrap_or_default();
        assert!(asked.is_empty(), "{asked:?}");
        let downloads = stage.device().root().join(model::vault::DOWNLOADS);
        assert_eq!(fs::read_dir(downloads).map_or(0, Iterator::count), 0);
    }

    deploy("builder.sig", "builder.pem");
    answers(&stage).unwrap();
    let judged = stage.bus().unwrap().read(&SIGNATURE_STATUS).unwrap();
    let signers: Vec<String> = judged
        .unwrap()
        .into_values()
        .filter_map(|row| row.signer)
        .collect();
    assert_eq!(signers.len(), 1);
    assert!(signers[0].contains("CN=the image builder"), "{signers:?}");
}
