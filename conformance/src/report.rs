//! What was seen of both, side by side: the same, different as documented, or different.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde_json::json;

use crate::scenario::{
    Cell, Difference, MORE_MODELS, Scenario, parse, parse_differences, version_of,
};
use crate::stage::Seen;

/// All scenarios and all documented differences.
#[derive(Debug)]
pub(crate) struct Suite {
    scenarios: Vec<Scenario>,
    differences: Vec<Difference>,
}

/// What was written down before: of CPython everything, of ours what differs.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    pub(crate) version: String,
    pub(crate) python: BTreeMap<String, Seen>,
    ours: BTreeMap<String, Seen>,
}

impl Suite {
    pub(crate) fn read(home: &Path) -> io::Result<Self> {
        let scenarios = parse(&std::fs::read_to_string(home.join("scenarios.txt"))?);
        let text = std::fs::read_to_string(home.join("differences.txt"))?;
        let differences = parse_differences(&text);
        for difference in &differences {
            for reason in ["python", "ours", "why"] {
                let has = difference.reasons.contains(reason);
                assert!(has, "differences.txt: {} has no {reason}", difference.name);
            }
            for place in &difference.places {
                let known = scenarios.iter().any(|known| known.name == place.scenario);
                assert!(
                    known || place.scenario == "*",
                    "differences.txt: no scenario {}",
                    place.scenario
                );
            }
        }
        let about = scenarios.iter().find(|known| known.about.is_empty());
        assert!(about.is_none(), "scenarios.txt: {about:?} says nothing");
        Ok(Self {
            scenarios,
            differences,
        })
    }

    pub(crate) fn cells(&self) -> Vec<Cell> {
        self.scenarios.iter().flat_map(Scenario::cells).collect()
    }

    fn difference(&self, cell: &Cell, version: (u32, u32)) -> Option<&Difference> {
        self.differences.iter().find(|difference| {
            let mut places = difference.places.iter();
            places.any(|place| place.covers(cell, version))
        })
    }
}

impl Recorded {
    pub(crate) fn read(home: &Path) -> io::Result<Self> {
        let read = |name: &str| {
            let path = home.join("recorded").join(name);
            let text = std::fs::read_to_string(path).unwrap_or_else(|_| "{}".to_owned());
            serde_json::from_str::<serde_json::Value>(&text)
        };
        let (python, ours) = (read("python.json")?, read("ours.json")?);
        let cells = |value: &serde_json::Value| {
            let cells = value.get("cells").cloned().unwrap_or_else(|| json!({}));
            serde_json::from_value(cells)
        };
        Ok(Self {
            version: python
                .get("version")
                .and_then(|version| version.as_str())
                .unwrap_or("0")
                .to_owned(),
            python: cells(&python)?,
            ours: cells(&ours)?,
        })
    }

    pub(crate) fn of_python(&self, cell: &Cell) -> &[String] {
        let seen = self.python.get(&cell.python_name());
        seen.map_or(&[], Vec::as_slice)
    }

    pub(crate) fn of_ours(&self, cell: &Cell) -> &[String] {
        let seen = self.ours.get(&cell.name());
        seen.map_or_else(|| self.of_python(cell), Vec::as_slice)
    }

    /// Writes down what was seen of these cells; if they are all there are, nothing else stays.
    pub(crate) fn record(
        &mut self,
        home: &Path,
        version: &str,
        theirs: &BTreeMap<String, Seen>,
        ours: &BTreeMap<String, Seen>,
        cells: &[Cell],
        are_all: bool,
    ) -> io::Result<()> {
        version.clone_into(&mut self.version);
        if are_all {
            self.python.clear();
            self.ours.clear();
        }
        self.python.extend(theirs.clone());
        for cell in cells {
            let (name, python_name) = (cell.name(), cell.python_name());
            if ours.get(&name) == theirs.get(&python_name) {
                self.ours.remove(&name);
            } else {
                self.ours.insert(name.clone(), ours[&name].clone());
            }
        }
        let write = |name: &str, version: &str, cells: &BTreeMap<String, Seen>| {
            // A line for each cell, so that a change shows which.
            let mut lines = Vec::new();
            for (name, seen) in cells {
                lines.push(format!("{}: {}", json!(name), json!(seen)));
            }
            let (version, cells) = (json!(version), lines.join(",\n"));
            let text = format!("{{\"version\": {version}, \"cells\": {{\n{cells}\n}}}}\n");
            std::fs::write(home.join("recorded").join(name), text)
        };
        write("python.json", version, &self.python)?;
        write("ours.json", env!("CARGO_PKG_VERSION"), &self.ours)
    }
}

/// What a comparison comes to.
enum Verdict<'a> {
    Same,
    Documented(&'a Difference),
    Differs(&'static str),
}

/// Prints a line for each cell, and the counts. Says whether all is as documented.
pub(crate) fn print(
    suite: &Suite,
    cells: &[Cell],
    version: &str,
    theirs: &BTreeMap<String, Seen>,
    ours: &BTreeMap<String, Seen>,
    recorded: &Recorded,
    verbose: bool,
) -> bool {
    let (mut same, mut documented, mut differs) = ([0, 0], [0, 0], [0, 0]);
    for cell in cells {
        let (name, python_name) = (cell.name(), cell.python_name());
        let nothing = Seen::new();
        let their = theirs.get(&python_name).unwrap_or(&nothing);
        let our = &ours[&name];
        let verdict = judge(suite, cell, version, their, our, recorded);
        let group = usize::from(MORE_MODELS.contains(&cell.model));
        match verdict {
            Verdict::Same => {
                same[group] += 1;
                println!("same                   {name}");
            }
            Verdict::Documented(difference) => {
                documented[group] += 1;
                println!("differs as documented  {name} ({})", difference.name);
            }
            Verdict::Differs(why) => {
                differs[group] += 1;
                println!("DIFFERS                {name}: {why}");
            }
        }
        if verbose || matches!(verdict, Verdict::Differs(_)) {
            show(their, our, recorded.ours.get(&name));
        }
    }
    println!();
    for (group, models) in ["that Python has", "that Python lacks"].iter().enumerate() {
        let (same, documented, differs) = (same[group], documented[group], differs[group]);
        println!(
            "models {models}: {} cells, {same} same, {documented} differ as documented, {differs} DIFFER",
            same + documented + differs
        );
    }
    let without = suite
        .scenarios
        .iter()
        .filter_map(|it| it.without_tls.as_ref());
    println!(
        "{} scenarios on TCP have no meaning over TLS",
        without.count()
    );
    println!(
        "{} scenarios, {} documented differences, CPython {version}",
        suite.scenarios.len(),
        suite.differences.len()
    );
    differs == [0, 0]
}

fn judge<'a>(
    suite: &'a Suite,
    cell: &Cell,
    version: &str,
    their: &Seen,
    our: &Seen,
    recorded: &Recorded,
) -> Verdict<'a> {
    let Some(difference) = suite.difference(cell, version_of(version)) else {
        return if their == our {
            Verdict::Same
        } else {
            Verdict::Differs("and differences.txt does not say so")
        };
    };
    let is_of_recorded_version = version_of(version) == version_of(&recorded.version);
    let recorded_of_python = recorded.python.get(&cell.python_name());
    // What is the same as on the recorded version is not written down twice.
    let recorded_of_ours = recorded.ours.get(&cell.name()).or(recorded_of_python);
    if their == our {
        Verdict::Differs("no more, although differences.txt says so")
    } else if recorded_of_ours != Some(our) {
        Verdict::Differs("in another way than was recorded of ours")
    } else if is_of_recorded_version && recorded_of_python != Some(their) {
        Verdict::Differs("in another way than was recorded of CPython")
    } else {
        Verdict::Documented(difference)
    }
}

fn show(their: &Seen, our: &Seen, recorded: Option<&Seen>) {
    if their == our {
        return our.iter().for_each(|line| println!("      {line}"));
    }
    let lines = their.len().max(our.len());
    for index in 0..lines {
        match (their.get(index), our.get(index)) {
            (Some(theirs), Some(ours)) if theirs == ours => println!("      {ours}"),
            (theirs, ours) => {
                theirs
                    .iter()
                    .for_each(|line| println!("    python  {line}"));
                ours.iter().for_each(|line| println!("    ours    {line}"));
            }
        }
    }
    for line in recorded
        .iter()
        .filter(|was| **was != our)
        .copied()
        .flatten()
    {
        println!("    ours was  {line}");
    }
}
