//! The config of a built image: the config of its base image, with the settings of the spec.

use crate::spec::RunConfig;
use error::Error;
use image_model::digest::Digest;
use image_model::manifest::Config;
use image_model::platform::Platform;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// An image config with its keys in the order of the image-spec.
#[derive(Serialize)]
pub struct Written {
    created: String,
    architecture: String,
    os: String,
    #[serde(rename = "os.version", skip_serializing_if = "Option::is_none")]
    os_version: Option<String>,
    #[serde(rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    os_features: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
    /// With sorted keys, including those that only the base image has (volumes, health check).
    config: Map<String, Value>,
    rootfs: Rootfs,
    history: Vec<Value>,
}

#[derive(Serialize)]
struct Rootfs {
    r#type: &'static str,
    diff_ids: Vec<Digest>,
}

/// The parts of a base image's config that are kept.
#[derive(Default)]
pub struct Inherited {
    pub config: Map<String, Value>,
    pub history: Vec<Value>,
    pub diff_ids: Vec<Digest>,
    os_version: Option<String>,
    os_features: Vec<String>,
}

#[derive(Deserialize)]
struct BaseConfig {
    #[serde(default)]
    config: Option<Map<String, Value>>,
    #[serde(default)]
    history: Option<Vec<Value>>,
}

impl Inherited {
    /// Reads them. `name` is the name of the base image in the spec, `parsed` the same bytes as a config.
    pub fn read(name: &str, bytes: &[u8], parsed: &Config) -> Result<Self, Error> {
        let doing = || format!("read the config of base image \"{name}\"");
        let base: BaseConfig =
            serde_json::from_slice(bytes).map_err(|e| Error::bad_input(doing(), e.to_string()))?;
        let diff_ids = parsed.diff_ids.clone();
        let is_layer = |entry: &&Value| entry.get("empty_layer") != Some(&Value::Bool(true));
        let mut history = base.history.unwrap_or_default();
        // Readers match the history to the layers. One of another length, as after a squash, is replaced.
        if history.iter().filter(is_layer).count() != diff_ids.len() {
            let entry = serde_json::json!({ "created_by": format!("a layer of {name}") });
            history = vec![entry; diff_ids.len()];
        }
        Ok(Self {
            config: base.config.unwrap_or_default(),
            history,
            diff_ids,
            os_version: parsed.platform.os_version.clone(),
            os_features: parsed.platform.os_features.clone(),
        })
    }
}

/// The config of an image for `platform` on `base`. `diff_id` is that of the added layer, if there is one.
pub fn write(
    platform: &Platform,
    run: &RunConfig,
    base: Inherited,
    diff_id: Option<Digest>,
    created: &str,
) -> Result<Vec<u8>, Error> {
    let mut history = base.history;
    let mut entry = Map::from_iter([
        ("created".to_string(), Value::from(created)),
        ("created_by".to_string(), Value::from("cargo xtask release: builder rootfs")),
    ]);
    if diff_id.is_none() {
        entry.insert("empty_layer".into(), Value::Bool(true));
    }
    history.push(Value::Object(entry));
    let written = Written {
        created: created.to_string(),
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        os_version: platform.os_version.clone().or(base.os_version),
        os_features: if platform.os_features.is_empty() {
            base.os_features
        } else {
            platform.os_features.clone()
        },
        variant: platform.variant.clone(),
        config: laid_over(base.config, run),
        rootfs: Rootfs { r#type: "layers", diff_ids: base.diff_ids.into_iter().chain(diff_id).collect() },
        history,
    };
    serde_json::to_vec(&written)
        .map_err(|e| Error::bad_input(format!("write a config for {platform}"), e.to_string()))
}

/// Returns the config of the base image with the values of the spec.
fn laid_over(mut config: Map<String, Value>, run: &RunConfig) -> Map<String, Value> {
    if let Some(entrypoint) = &run.entrypoint {
        set_words(&mut config, "Entrypoint", entrypoint);
        // The base's arguments are for the base's program; so a Dockerfile has it.
        config.remove("Cmd");
    }
    if let Some(cmd) = &run.cmd {
        set_words(&mut config, "Cmd", cmd);
    }
    if !run.env.is_empty() {
        let mut env: Vec<String> = match config.remove("Env") {
            Some(Value::Array(env)) => env.iter().filter_map(Value::as_str).map(str::to_string).collect(),
            _ => Vec::new(),
        };
        for (name, value) in &run.env {
            let said = format!("{name}={value}");
            let same = |old: &&mut String| old.split('=').next() == Some(name);
            match env.iter_mut().find(same) {
                Some(old) => *old = said,
                None => env.push(said),
            }
        }
        config.insert("Env".into(), Value::from(env));
    }
    if let Some(user) = &run.user {
        config.insert("User".into(), Value::from(user.as_str()));
    }
    if let Some(workdir) = &run.workdir {
        config.insert("WorkingDir".into(), Value::from(workdir.as_str()));
    }
    let labels = run.labels.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str())));
    add(&mut config, "Labels", labels.collect());
    let ports = run.expose.iter().map(|port| (port.to_string(), Value::Object(Map::new())));
    add(&mut config, "ExposedPorts", ports.collect());
    config
}

fn set_words(config: &mut Map<String, Value>, key: &str, words: &[String]) {
    match words {
        [] => config.remove(key),
        words => config.insert(key.into(), Value::from(words)),
    };
}

fn add(config: &mut Map<String, Value>, key: &str, more: Map<String, Value>) {
    if more.is_empty() {
        return;
    }
    match config.get_mut(key) {
        Some(Value::Object(there)) => there.extend(more),
        _ => {
            config.insert(key.into(), Value::Object(more));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_the_spec_override_those_of_the_base() {
        let base = r#"{"Cmd":["sh"],"Entrypoint":["/base"],"Env":["PATH=/bin","A=1"],"Labels":{"a":"1"},
            "StopSignal":"SIGQUIT","User":"base","ExposedPorts":{"80/tcp":{}}}"#;
        let check = |run: RunConfig, wanted: &str| {
            let config = laid_over(serde_json::from_str(base).unwrap(), &run);
            let wanted: Value = serde_json::from_str(wanted).unwrap();
            assert_eq!(Value::Object(config), wanted);
        };
        check(RunConfig::default(), base);
        let words = |words: &[&str]| Some(words.iter().map(|w| (*w).to_string()).collect::<Vec<_>>());
        check(
            RunConfig {
                entrypoint: words(&["/app"]),
                env: [("A", "2"), ("B", "3")].map(|(k, v)| (k.to_string(), v.to_string())).into(),
                workdir: Some("/w".into()),
                labels: [("b".to_string(), "2".to_string())].into(),
                expose: vec![crate::spec::Port { number: 53, protocol: "udp" }],
                ..RunConfig::default()
            },
            r#"{"Entrypoint":["/app"],"Env":["PATH=/bin","A=2","B=3"],"Labels":{"a":"1","b":"2"},
                "StopSignal":"SIGQUIT","User":"base","WorkingDir":"/w","ExposedPorts":{"80/tcp":{},"53/udp":{}}}"#,
        );
        check(
            RunConfig {
                entrypoint: words(&[]),
                cmd: words(&["/x"]),
                user: Some("1".into()),
                ..RunConfig::default()
            },
            r#"{"Cmd":["/x"],"Env":["PATH=/bin","A=1"],"Labels":{"a":"1"},"StopSignal":"SIGQUIT","User":"1",
                "ExposedPorts":{"80/tcp":{}}}"#,
        );
    }
}
