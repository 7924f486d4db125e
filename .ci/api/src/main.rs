//! Reads the JSON that rustdoc writes of the library. `api list FILE` prints its public items, a line each. `api examples FILE`
//! prints each type, trait, function and other item of a public module whose documentation has no compiled example, and fails
//! if there are any.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::error::Error;
use std::process::ExitCode;
use std::{env, fs};

use public_api::{Builder, PublicItem};
use rustdoc_types::{Crate, FORMAT_VERSION, Id, Item, ItemEnum};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (["list", file] | ["examples", file]) = arguments[..] else {
        return Err("usage: api list FILE, or: api examples FILE".into());
    };
    let json: serde_json::Value = serde_json::from_str(&fs::read_to_string(file)?)?;
    if json["format_version"] != FORMAT_VERSION {
        let found = &json["format_version"];
        return Err(format!("rustdoc has written version {found} of its JSON; .ci/api/Cargo.toml has crates for {FORMAT_VERSION}").into());
    }
    let krate: Crate = serde_json::from_value(json)?;
    if arguments[0] == "list" {
        list(&krate, file)?;
        return Ok(ExitCode::SUCCESS);
    }
    let items = module_items(&krate);
    let without: Vec<_> = items
        .iter()
        .filter(|(_, item)| !has_example(item))
        .collect();
    for (path, _) in &without {
        println!("{path}");
    }
    eprintln!(
        "{} of {} public items have no compiled example",
        without.len(),
        items.len()
    );
    Ok(if without.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn list(krate: &Crate, file: &str) -> Result<(), Box<dyn Error>> {
    let api = Builder::from_rustdoc_json(file)
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .build()?;
    let mut listed = HashSet::new();
    let lines = api.items().filter(|item| !follows(krate, item));
    let lines = lines.map(ToString::to_string);
    // Derived with `PartialEq`, and of no use to anyone.
    let lines = lines.filter(|line| !line.contains("StructuralPartialEq"));
    for line in lines {
        if listed.insert(line.clone()) {
            println!("{line}");
        }
    }
    Ok(())
}

/// Whether an item is a function or a constant of a trait's implementation: the trait says what it is.
fn follows(krate: &Crate, item: &PublicItem) -> bool {
    let inner = |id: Id| krate.index.get(&id).map(|item| &item.inner);
    let of_trait = matches!(
        item.parent_id().and_then(inner),
        Some(ItemEnum::Impl(block)) if block.trait_.is_some()
    );
    of_trait
        && matches!(
            inner(item.id()),
            Some(ItemEnum::Function(_) | ItemEnum::AssocConst { .. })
        )
}

/// The items of the root and of each public module, by the first of their paths: rustdoc has left out what is not public.
fn module_items(krate: &Crate) -> BTreeMap<String, &Item> {
    let mut items = BTreeMap::new();
    let mut seen = HashSet::new();
    let mut modules = VecDeque::from([("socketserver".to_owned(), krate.root)]);
    while let Some((path, module)) = modules.pop_front() {
        let ItemEnum::Module(module) = &krate.index[&module].inner else {
            continue;
        };
        for child in module.items.iter().filter_map(|id| krate.index.get(id)) {
            // What is exported once more may have another name there, and is missing when it belongs to another crate.
            let (name, id) = match &child.inner {
                ItemEnum::Use(used) if used.is_glob => {
                    modules.extend(used.id.map(|id| (path.clone(), id)));
                    continue;
                }
                ItemEnum::Use(used) => (Some(&used.name), used.id),
                _ => (child.name.as_ref(), Some(child.id)),
            };
            let item = id.and_then(|id| krate.index.get(&id));
            let (Some(name), Some(item)) = (name, item) else {
                continue;
            };
            let path = format!("{path}::{name}");
            if !seen.insert(item.id) {
                continue;
            }
            match item.inner {
                ItemEnum::Module(_) => modules.push_back((path, item.id)),
                ItemEnum::Impl(_) => {}
                _ => drop(items.insert(path, item)),
            }
        }
    }
    items
}

/// Whether there is a block of code that the tests of the documentation compile, and that is to compile.
fn has_example(item: &Item) -> bool {
    let docs = item.docs.as_deref().unwrap_or_default();
    let fences = docs
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("```"));
    // Every other fence ends what the one before it has begun.
    fences.step_by(2).any(|language| {
        let mut words = language.split([',', ' ']).filter(|word| !word.is_empty());
        words.all(|word| {
            matches!(word, "rust" | "no_run" | "should_panic") || word.starts_with("edition")
        })
    })
}
