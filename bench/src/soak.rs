//! `cargo xtask bench soak`: commands in random order on shared tags, layouts, caches and work directories, some of them killed,
//! against a registry that stops and continues; then many of one kind at once. Afterwards every image must be complete.

use super::measure::{Ground, quiet};
use super::registry::Registry;
use cli::table;
use error::{Error, Exit};
use image_model::reference::Reference;
use image_store::atomic_file::TempFiles;
use image_store::check::{CheckDepth, check};
use image_store::open::Stores;
use nix::sys::signal::Signal;
use registry_client::RegistryOptions;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Length of the random part.
const TIME: Duration = Duration::from_secs(300);
/// Commands at a time.
const AT_ONCE: usize = 3;
/// One of so many commands is killed, and one of so many pauses the registry.
const KILLED: u64 = 4;
const PAUSED: u64 = 40;
const PAUSE: Duration = Duration::from_millis(700);
/// A command that takes longer has not ended.
const TIME_LIMIT: Duration = Duration::from_secs(120);

const PLATFORMS: [&str; 3] = ["linux/amd64", "linux/arm/v7", "linux/arm64"];

struct Soak {
    ground: Ground,
    registry: Registry,
    random: Random,
}

/// xorshift64: the order of commands can be repeated with the same seed.
struct Random(Cell<u64>);

impl Random {
    fn below(&self, end: u64) -> u64 {
        let mut x = self.0.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0.set(x);
        x % end
    }
}

/// Number of commands by how they ended: an exit code or "killed".
type Endings = BTreeMap<String, usize>;

pub fn run() -> Result<(), Error> {
    let ground = Ground::of("multiarch")?;
    let registry = Registry::start(ground.dir())?;
    let seed = std::env::var("MULTIARCH_SOAK_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(36_552);
    let soak = Soak { ground, registry, random: Random(Cell::new(seed)) };
    soak.prepare()?;
    println!("soak of {} s with seed {seed}", TIME.as_secs());
    soak.random_commands()?;
    soak.check_all()?;
    soak.crowds()
}

fn local(error: std::io::Error) -> Error {
    Error::from_io("prepare the soak", error)
}

impl Soak {
    fn prepare(&self) -> Result<(), Error> {
        let programs = self.ground.path("programs");
        multiarch::example_binaries::write_all(&programs).map_err(local)?;
        let rows: Vec<String> = PLATFORMS
            .iter()
            .map(|platform| {
                let dir = platform.replace('/', "-");
                let tag = platform.replacen('/', "-", 1).replace('/', "");
                format!("  {platform}: {{ copy: {{ programs/{dir}/hello: /hello }}, cmd: [/hello], tag: {tag} }}\n")
            })
            .collect();
        let spec = format!("image: {}\nplatforms:\n{}", self.image("app"), rows.concat());
        fs::write(self.ground.path("release.yaml"), spec).map_err(local)?;
        for name in ["home", "run"] {
            fs::create_dir_all(self.ground.path(name)).map_err(local)?;
        }
        let status = self.command(&["release", "release.yaml"]).status().map_err(local)?;
        match status.success() {
            true => Ok(()),
            false => Err(Error::new(Exit::CheckFailed, "prepare the soak", format!("release: {status}"))),
        }
    }

    fn image(&self, name: &str) -> String {
        format!("{}/soak/{name}", self.registry.host())
    }

    fn layout(&self) -> String {
        format!("oci:{}", self.ground.path("layout").display())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = quiet(&self.ground.tool);
        command.args(args).current_dir(self.ground.dir()).env("HOME", self.ground.path("home"));
        for name in ["XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "DOCKER_CONFIG"] {
            command.env_remove(name);
        }
        command.env("XDG_RUNTIME_DIR", self.ground.path("run"));
        command
    }

    /// One command of those that users run, on one of a few tags.
    fn any_command(&self) -> Vec<String> {
        let tag = format!("t{}", self.random.below(4));
        let app = format!("{}:latest", self.image("app"));
        let (copy, pushed) =
            (format!("{}:{tag}", self.image("copy")), format!("{}:{tag}", self.image("pushed")));
        let local = format!("{}:{tag}", self.layout());
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        match self.random.below(10) {
            0 => words(&["release", "release.yaml"]),
            1 => words(&["release", "release.yaml", "--to", &self.image(&format!("other{tag}"))]),
            2 => words(&["copy", &app, &copy]),
            3 => words(&["copy", &app, &local]),
            4 => words(&["fix", &local, "--set-platform", "linux/s390x", "--platform", "linux/arm64"]),
            5 => words(&["fix", &local, "--from-binaries"]),
            6 => words(&["verify", &app]),
            7 => words(&["verify", "--all-tags", &self.layout()]),
            8 => words(&["edit", &copy, "--remove", "linux/arm/v7"]),
            _ => words(&[
                "push",
                "from-args",
                "--platforms",
                "linux/amd64,linux/arm64",
                "--template",
                &format!("{}:OS-ARCH", self.image("app")),
                "--target",
                &pushed,
            ]),
        }
    }

    fn random_commands(&self) -> Result<(), Error> {
        let (begun, mut endings) = (Instant::now(), BTreeMap::<String, Endings>::new());
        let mut running: Vec<(String, Child, Option<Instant>, Instant)> = Vec::new();
        let mut paused: Option<Instant> = None;
        while begun.elapsed() < TIME || !running.is_empty() || paused.is_some() {
            if begun.elapsed() < TIME && running.len() < AT_ONCE {
                let words = self.any_command();
                let args: Vec<&str> = words.iter().map(String::as_str).collect();
                let child = self.command(&args).spawn().map_err(local)?;
                let kill = self.random.below(KILLED) == 0;
                let delay = Duration::from_millis(self.random.below(120));
                running.push((words[0].clone(), child, kill.then(|| Instant::now() + delay), Instant::now()));
            }
            if paused.is_none() && begun.elapsed() < TIME && self.random.below(PAUSED * 50) == 0 {
                self.registry.signal(Signal::SIGSTOP);
                paused = Some(Instant::now() + PAUSE);
            }
            if paused.is_some_and(|end| Instant::now() >= end) {
                self.registry.signal(Signal::SIGCONT);
                paused = None;
            }
            let mut left = Vec::new();
            for (name, mut child, kill, since) in running {
                if kill.is_some_and(|at| Instant::now() >= at) {
                    let _ = child.kill();
                }
                match child.try_wait().map_err(local)? {
                    Some(status) => {
                        let ending =
                            status.code().map_or("killed".to_string(), |code| format!("exit {code}"));
                        *endings.entry(name).or_default().entry(ending).or_default() += 1;
                    }
                    None if since.elapsed() > TIME_LIMIT => {
                        let _ = child.kill();
                        let _ = child.wait();
                        let reason = format!("\"{name}\" did not end within {} s", TIME_LIMIT.as_secs());
                        return Err(Error::new(Exit::CheckFailed, "soak", reason));
                    }
                    None => left.push((name, child, kill, since)),
                }
            }
            running = left;
            std::thread::sleep(Duration::from_millis(2));
        }
        print_endings("random commands", &endings);
        Ok(())
    }

    /// Checks every tag of the registry and of the layout, to the last byte of its layers.
    fn check_all(&self) -> Result<(), Error> {
        let stores = Stores::new(RegistryOptions::default(), TempFiles::default());
        let mut problems = Vec::new();
        let mut checked = 0;
        let repositories = ["app", "copy", "pushed", "othert0", "othert1", "othert2", "othert3"];
        let references = repositories.map(|name| self.image(name)).into_iter().chain([self.layout()]);
        for repository in references {
            let parsed: Reference = repository
                .parse()
                .map_err(|error| Error::bad_input("check the images", format!("{error}")))?;
            let Ok(tags) = stores.source(&parsed).and_then(|opened| opened.store.tags()) else { continue };
            for tag in tags {
                let Ok(reference) = format!("{repository}:{tag}").parse::<Reference>() else { continue };
                let opened = stores.source(&reference)?;
                checked += 1;
                let found = check(&*opened.store, &opened.pointer, CheckDepth::Layers);
                problems.extend(found.iter().map(|problem| format!("{reference}: {problem}")));
            }
        }
        println!("{checked} tags checked, to the last byte: {} problems", problems.len());
        match problems.is_empty() && checked > 0 {
            true => Ok(()),
            false => Err(Error::new(Exit::CheckFailed, "soak", "images are incomplete").problems(problems)),
        }
    }

    /// Many commands of one kind at once.
    fn crowds(&self) -> Result<(), Error> {
        let app = format!("{}:latest", self.image("app"));
        let layout = self.layout();
        let mut endings = BTreeMap::new();
        let push = |number: usize| {
            let platforms =
                if number.is_multiple_of(2) { "linux/amd64,linux/arm64" } else { "linux/amd64,linux/arm/v7" };
            let (template, target) = (format!("{}:OS-ARCHVARIANT", self.image("app")), self.image("crowd"));
            vec!["push", "from-args", "--platforms", platforms, "--template", &template, "--target", &target]
                .into_iter()
                .map(str::to_string)
                .collect::<Vec<_>>()
        };
        let copies = |number: usize| {
            ["copy", &app, &format!("{}:only{}", self.image("crowd"), number % 2)]
                .map(str::to_string)
                .to_vec()
        };
        let verify = |_| ["verify", "--full", &app].map(str::to_string).to_vec();
        let fix = |number: usize| {
            let platform = ["linux/s390x", "linux/arm64"][number % 2];
            let tag = format!("{layout}:crowd");
            [
                "fix",
                &tag,
                "--set-platform",
                platform,
                "--platform",
                ["linux/arm64", "linux/s390x"][number % 2],
            ]
            .map(str::to_string)
            .to_vec()
        };
        let release = |_| ["release", "release.yaml"].map(str::to_string).to_vec();
        let status = self.command(&["copy", &app, &format!("{layout}:crowd")]).status().map_err(local)?;
        if !status.success() {
            return Err(Error::new(Exit::CheckFailed, "soak", format!("copy into the layout: {status}")));
        }
        type Make<'a> = &'a dyn Fn(usize) -> Vec<String>;
        let crowds: [(&str, usize, Make<'_>); 5] = [
            ("50 pushes of one tag", 50, &push),
            ("50 copies to two tags", 50, &copies),
            ("200 verifies with one cache", 200, &verify),
            ("30 fixes in one layout", 30, &fix),
            ("10 releases of one spec", 10, &release),
        ];
        for (name, count, make) in crowds {
            let begun = Instant::now();
            let mut running = Vec::new();
            for number in 0..count {
                let words = make(number);
                let args: Vec<&str> = words.iter().map(String::as_str).collect();
                running.push(self.command(&args).spawn().map_err(local)?);
            }
            let mut of_crowd = Endings::new();
            for mut child in running {
                let status = child.wait().map_err(local)?;
                let ending = status.code().map_or("killed".to_string(), |code| format!("exit {code}"));
                *of_crowd.entry(ending).or_default() += 1;
            }
            endings.insert(format!("{name}, {:.1} s", begun.elapsed().as_secs_f64()), of_crowd);
        }
        print_endings("at once", &endings);
        self.check_all()
    }
}

fn print_endings(title: &str, endings: &BTreeMap<String, Endings>) {
    let rows: Vec<Vec<String>> = endings
        .iter()
        .map(|(name, endings)| {
            let count: usize = endings.values().sum();
            let ended: Vec<String> = endings.iter().map(|(how, count)| format!("{count} x {how}")).collect();
            vec![name.clone(), count.to_string(), ended.join(", ")]
        })
        .collect();
    println!("{title}\n{}", table(&["", "COMMANDS", "ENDED WITH"], &rows));
}
