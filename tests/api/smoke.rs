//! `velum smoke`, and `velum healthcheck` over the same door: what a deploy asks of a program before anybody is sent to it.

use std::{fs, path::Path, process::Command};

use super::helpers::{Process, photos};

fn asked(process: &Process, arguments: &[&str]) -> (bool, String) {
    let output = process.command().args(arguments).stdout(std::process::Stdio::piped()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_goes_the_whole_way_over_the_socket_and_leaves_nothing() {
    let data = tempfile::tempdir().unwrap();
    let socket = data.path().join("green.sock");
    let listen = |command: &mut Command| {
        command.env("VELUM_LISTEN_SOCKET", &socket);
    };
    let process = Process::start_with(data.path(), listen);
    let client = process.client().await;
    let (socket, credential) = (socket.to_str().unwrap(), data.path().join("dev_client.json"));
    let credential = credential.to_str().unwrap();
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples");
    let smoke = ["smoke", "--socket", socket, "--credential", credential, "--samples"];

    let (ready, said) = asked(&process, &["healthcheck", "--socket", socket]);
    assert!(ready, "{said}");
    for way in [&smoke[..], &["smoke", "--credential", credential, "--samples"]] {
        let (passed, said) = asked(&process, &[way, &[samples.to_str().unwrap()]].concat());
        assert!(passed, "{said}");
        let steps: Vec<_> = said.lines().filter_map(|line| line.split("  ").next()).collect();
        assert_eq!(steps.first().zip(steps.last()), Some((&"token", &"erased")));
        assert_eq!(steps.len(), 10, "{said}");
    }

    // Two photos of one person, sent as two people: the server's yes is caught, and the person goes all the same.
    let wrong = tempfile::tempdir().unwrap();
    fs::write(wrong.path().join("eileen_collins.png"), photos::collins()).unwrap();
    fs::write(wrong.path().join("grace_hopper.jpg"), photos::collins_changed()).unwrap();
    let (passed, said) = asked(&process, &[&smoke[..], &[wrong.path().to_str().unwrap()]].concat());
    assert!(!passed && said.contains("smoke, another person told apart"), "{said}");
    assert!(said.contains("erased"), "{said}");

    fs::write(data.path().join("wrong.json"), r#"{"client_id":"cli_no","client_secret":"no"}"#).unwrap();
    let unknown = data.path().join("wrong.json");
    let stranger = ["smoke", "--socket", socket, "--credential", unknown.to_str().unwrap(), "--samples"];
    let (passed, said) = asked(&process, &[&stranger[..], &[samples.to_str().unwrap()]].concat());
    assert!(!passed && said.contains("smoke, token"), "{said}");

    let (ready, said) = asked(&process, &["healthcheck", "--socket", "/nowhere.sock"]);
    assert!(!ready, "{said}");
    let held = client.get("/v1/stats").await.expect(200).json();
    assert_eq!(held["subjects"], 0, "{held}");
}
