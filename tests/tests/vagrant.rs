//! The provision script of the virtual machine, run for real: in a mount namespace of its own, so that this machine stays
//! as it is. Only the virtual machine around it is not there.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tidegate_tests::{Finished, workspace};

fn script() -> String {
    workspace().join("vagrant/provision.sh").display().to_string()
}

fn run(program: &str, arguments: &[&str], settings: &[(&str, &str)]) -> Finished {
    let mut command = Command::new(program);
    command.args(arguments).envs(settings.iter().copied());
    Finished::of(command, Duration::from_secs(900))
}

#[test]
fn shell_scripts_are_free_of_known_mistakes() {
    let own = ["postinst", "prerm", "postrm"].map(|name| format!("gateway-user/package/debian/{name}"));
    let own = own.iter().map(String::as_str).chain([".ci/run", "xtask/src/package/machine/init.sh"]);
    let own = own.map(|name| workspace().join(name).display().to_string());
    for script in own.chain([script()]) {
        drop(run("bash", &["-n", &script], &[]).success());
        drop(run("shellcheck", &[&script], &[]).success());
        assert_ne!(
            fs::metadata(&script).unwrap().permissions().mode() & 0o111,
            0,
            "{script} is not executable"
        );
    }
}

#[test]
fn the_machine_is_provisioned_up_to_the_build() {
    let folder = tempfile::tempdir().unwrap();
    let [vagrant, upper, work] = ["vagrant", "upper", "work"].map(|name| {
        let path = folder.path().join(name);
        fs::create_dir(&path).unwrap();
        path.display().to_string()
    });
    let project = workspace().display().to_string();
    // The copy goes over the project itself, in an overlay that only the script sees: the same paths, so that what is
    // built already need not be built again, and a file that the copy forgets is missing indeed.
    let mounts = format!(
        "mount --bind {project} {vagrant} && \
         mount -t overlay overlay -o lowerdir={project},upperdir={upper},workdir={work} {project} && \
         cd / && exec {vagrant}/vagrant/provision.sh"
    );
    let settings = [
        ("TIDEGATE_SOURCE", vagrant.as_str()),
        ("TIDEGATE_HOME", project.as_str()),
        ("TIDEGATE_PROVISION_COMMAND", "cargo xtask build && touch provisioned"),
    ];
    let finished =
        run("unshare", &["--mount", "--propagation", "private", "bash", "-c", &mounts], &settings).success();
    assert!(finished.text().contains("provision: done"), "{}", finished.text());
    assert!(Path::new(&upper).join("provisioned").exists(), "the command ran in the copy");
    assert!(!workspace().join("provisioned").exists(), "and the project itself was left alone");
}

#[test]
fn a_machine_without_cargo_gets_it_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let bin = folder.path().join("bin");
    fs::create_dir(&bin).unwrap();
    for tool in ["bash", "sh", "id", "mkdir", "find", "rm", "tar", "cat", "chmod", "cc"] {
        let known = ["/bin", "/usr/bin"].map(|folder| Path::new(folder).join(tool));
        symlink(known.iter().find(|path| path.exists()).unwrap(), bin.join(tool)).unwrap();
    }
    // Stands in for the network: the script pipes into sh what this prints.
    let cargo = "#!/bin/sh\necho cargo: $*\n";
    let installer = format!(
        "mkdir -p $CARGO_HOME/bin; printf '{cargo}' > $CARGO_HOME/bin/cargo; chmod +x $CARGO_HOME/bin/cargo"
    );
    fs::write(bin.join("curl"), format!("#!/bin/sh\ncat <<'END'\n{}\nEND\n", installer.replace('\n', "\\n")))
        .unwrap();
    fs::set_permissions(bin.join("curl"), fs::Permissions::from_mode(0o755)).unwrap();
    let settings = [
        ("CARGO_HOME", path("home/.cargo")),
        ("PATH", path("bin")),
        ("TIDEGATE_SOURCE", workspace().display().to_string()),
        ("TIDEGATE_HOME", path("copy")),
    ];
    let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let finished = run("/bin/bash", &[&script()], &settings).success();
    assert!(finished.text().contains("cargo: xtask demo"), "{}", finished.text());
    let copy = folder.path().join("copy");
    assert!(copy.join("gateway-user/Cargo.toml").exists() && copy.join(".cargo/config.toml").exists());
    assert!(!copy.join("target").exists() && !copy.join(".git").exists());
}

#[test]
fn the_script_refuses_what_is_not_the_project_and_to_copy_onto_itself() {
    let empty = tempfile::tempdir().unwrap();
    let empty = empty.path().display().to_string();
    let project = workspace().display().to_string();
    for (source, home, said) in
        [(&empty, &empty, "is not the project"), (&project, &project, "the same folder")]
    {
        let settings = [("TIDEGATE_SOURCE", source.as_str()), ("TIDEGATE_HOME", home.as_str())];
        let finished = run(&script(), &[], &settings);
        assert_eq!(finished.code(), Some(1));
        assert!(finished.errors().contains(said), "{}", finished.errors());
    }
}

#[test]
fn the_script_refuses_a_package_that_is_not_there_and_builds_nothing_instead() {
    let nothing = tempfile::tempdir().unwrap();
    let package = nothing.path().join("tidegate.deb").display().to_string();
    let home = nothing.path().join("home").display().to_string();
    let project = workspace().display().to_string();
    let settings =
        [("TIDEGATE_PACKAGE", package.as_str()), ("TIDEGATE_SOURCE", &project), ("TIDEGATE_HOME", &home)];
    let finished = run(&script(), &[], &settings);
    assert_eq!(finished.code(), Some(1));
    assert!(finished.errors().contains("is no package"), "{}", finished.errors());
    assert!(!Path::new(&home).exists());
}
