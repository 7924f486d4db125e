//! Scenarios and documented differences, as their two text files have them.
//!
//! `scenarios.txt`: a scenario begins with `[name] TRANSPORTS MODELS`, continues with a sentence,
//! with `key value` lines (options of the server, scripts of the handler) and with steps, which
//! begin with `>`. What is played on TCP is played over TLS too, unless a line `without_tls` says why not.
//! `differences.txt`: a difference begins with `[name]`, and has the lines `where`,
//! `python`, `ours`, `why` and, where there is one, `issue`; a `where` is
//! `SCENARIO[/TRANSPORT[/MODEL]] [python<X.Y | python>=X.Y]`, `*` stands for any
//! and `|` for or.

use std::collections::BTreeSet;

/// What is played, in as many cells as it names transports and models.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: String,
    pub(crate) about: String,
    pub(crate) transports: Vec<&'static str>,
    pub(crate) models: Vec<&'static str>,
    pub(crate) options: Vec<(String, String)>,
    /// Why it is not played over TLS, though on TCP.
    pub(crate) without_tls: Option<String>,
    pub(crate) steps: Vec<String>,
}

/// One scenario on one transport under one model.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    pub(crate) scenario: Scenario,
    pub(crate) transport: &'static str,
    pub(crate) model: &'static str,
}

/// What differs on purpose.
#[derive(Clone, Debug, Default)]
pub(crate) struct Difference {
    pub(crate) name: String,
    pub(crate) places: Vec<Place>,
    pub(crate) reasons: BTreeSet<String>,
}

/// Where something differs.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) scenario: String,
    transport: String,
    model: String,
    before: Option<(u32, u32)>,
    since: Option<(u32, u32)>,
}

const TRANSPORTS: [&str; 4] = ["tcp", "udp", "unix", "unixgram"];

/// The models that Python has.
const MODELS: [&str; 3] = ["sequential", "threading", "forking"];

/// The models that it lacks; each is compared with Python's threads. What follows a plus is how a
/// model works: what is said of it holds for each of them.
pub(crate) const MORE_MODELS: [&str; 4] =
    ["pool", "prefork", "coroutines+epoll", "coroutines+uring"];

impl Scenario {
    /// Its cells: those that Python has too, and those that it lacks.
    pub(crate) fn cells(&self) -> Vec<Cell> {
        let by_request = |step: &String| step.starts_with("request");
        let mut models = self.models.clone();
        if models.contains(&"threading") && !self.steps.iter().any(by_request) {
            models.extend(MORE_MODELS);
        }
        let mut cells = Vec::new();
        let over_tls = self.transports.contains(&"tcp") && self.without_tls.is_none();
        let tls = over_tls.then_some("tls");
        for transport in self.transports.iter().copied().chain(tls) {
            for &model in &models {
                cells.push(Cell {
                    scenario: self.clone(),
                    transport,
                    model,
                });
            }
        }
        cells
    }
}

impl Cell {
    /// Whether it looks at how long something takes.
    pub(crate) fn is_timed(&self) -> bool {
        self.scenario.steps.iter().any(|step| {
            let mut words = step.split(' ');
            let is_wait = matches!(words.next(), Some("await" | "stop"));
            is_wait && words.any(|word| word.parse::<u32>().is_ok())
        })
    }

    pub(crate) fn name(&self) -> String {
        format!("{}/{}/{}", self.scenario.name, self.transport, self.model)
    }

    /// Python's model that this cell is compared with.
    pub(crate) fn python_model(&self) -> &'static str {
        if MORE_MODELS.contains(&self.model) {
            "threading"
        } else {
            self.model
        }
    }

    /// The name of the cell of Python that this one is compared with.
    pub(crate) fn python_name(&self) -> String {
        let Self {
            scenario,
            transport,
            ..
        } = self;
        format!("{}/{transport}/{}", scenario.name, self.python_model())
    }
}

impl Place {
    fn parse(text: &str) -> Self {
        let mut words = text.split_whitespace();
        let mut parts = words.next().unwrap_or_default().split('/');
        let mut part = || parts.next().unwrap_or("*").to_owned();
        let mut place = Self {
            scenario: part(),
            transport: part(),
            model: part(),
            before: None,
            since: None,
        };
        for word in words {
            if let Some(version) = word.strip_prefix("python<") {
                place.before = Some(version_of(version));
            } else if let Some(version) = word.strip_prefix("python>=") {
                place.since = Some(version_of(version));
            } else {
                panic!("differences.txt: {word:?} is no condition");
            }
        }
        place
    }

    pub(crate) fn covers(&self, cell: &Cell, python: (u32, u32)) -> bool {
        let is = |pattern: &str, value: &str| {
            pattern == "*" || pattern.split('|').any(|choice| choice == value)
        };
        is(&self.scenario, &cell.scenario.name)
            && is(&self.transport, cell.transport)
            && is(&self.model, base(cell.model))
            && self.before.is_none_or(|version| python < version)
            && self.since.is_none_or(|version| python >= version)
    }
}

/// The name of a model without how it works.
pub(crate) fn base(model: &str) -> &str {
    model.split('+').next().unwrap_or(model)
}

/// The first two numbers of a version.
pub(crate) fn version_of(text: &str) -> (u32, u32) {
    let mut numbers = text.split('.').map(|number| number.parse().unwrap_or(0));
    (
        numbers.next().unwrap_or_default(),
        numbers.next().unwrap_or_default(),
    )
}

fn choose(names: &str, all: &[&'static str]) -> Vec<&'static str> {
    let names = match names {
        "all" | "each" => return all.to_vec(),
        "streams" => "tcp,unix",
        "datagrams" => "udp,unixgram",
        "paths" => "unix,unixgram",
        "shared" => "sequential,threading",
        "beside" => "threading,forking",
        names => names,
    };
    let chosen = names.split(',').map(|name| {
        let known = all.iter().find(|known| **known == name);
        *known.unwrap_or_else(|| panic!("scenarios.txt: there is no {name:?}"))
    });
    chosen.collect()
}

/// Reads `scenarios.txt`.
pub(crate) fn parse(text: &str) -> Vec<Scenario> {
    let mut scenarios: Vec<Scenario> = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(rest) = line.strip_prefix('[') {
            let (name, rest) = rest.split_once(']').expect("a name in brackets");
            let (transports, models) = rest.trim().split_once(' ').expect("transports and models");
            scenarios.push(Scenario {
                name: name.to_owned(),
                about: String::new(),
                transports: choose(transports, &TRANSPORTS),
                models: choose(models.trim(), &MODELS),
                options: Vec::new(),
                without_tls: None,
                steps: Vec::new(),
            });
            continue;
        }
        let scenario = scenarios.last_mut().expect("a name before all else");
        if let Some(step) = line.strip_prefix("> ") {
            scenario.steps.push(step.to_owned());
        } else if scenario.about.is_empty() {
            line.clone_into(&mut scenario.about);
        } else {
            let (key, value) = line.split_once(' ').unwrap_or((line, ""));
            if key == "without_tls" {
                scenario.without_tls = Some(value.to_owned());
                continue;
            }
            scenario
                .options
                .push((key.to_owned(), value.trim().to_owned()));
        }
    }
    scenarios
}

/// Reads `differences.txt`.
pub(crate) fn parse_differences(text: &str) -> Vec<Difference> {
    let mut differences: Vec<Difference> = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            differences.push(Difference {
                name: name.to_owned(),
                ..Difference::default()
            });
            continue;
        }
        let difference = differences.last_mut().expect("a name before all else");
        let (key, value) = line.split_once(' ').expect("a key and a value");
        if key == "where" {
            difference.places.push(Place::parse(value));
        } else {
            difference.reasons.insert(key.to_owned());
        }
    }
    differences
}
