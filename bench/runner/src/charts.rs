//! Charts: for each group of scenarios the CPU per operation and the throughput, with a bar for each subject.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::drawing::IntoDrawingArea;
use plotters::prelude::{BLACK, Color, Palette, Palette99, Rectangle, SVGBackend, Text, WHITE};
use plotters::style::{IntoFont, RGBColor};

use crate::measure::{Round, Row};
use crate::report::Outcome;

const WIDTH: i32 = 960;
const MARGIN: i32 = 24;
/// Where the bars begin, and how far they reach at most.
const BARS: i32 = 290;
const REACH: i32 = WIDTH - BARS - MARGIN - 80;
const TITLE: i32 = 44;
const HEADING: i32 = 30;
const BAR: i32 = 20;
const GAP: i32 = 10;

const GREY: RGBColor = RGBColor(90, 90, 90);

/// What a chart shows.
struct Kind {
    name: &'static str,
    title: &'static str,
    digits: usize,
    value: fn(&Round) -> f64,
}

const KINDS: [Kind; 2] = [
    Kind {
        name: "cpu",
        title: "processor time of the server for each operation, in microseconds: less is better",
        digits: 2,
        value: |round| round.cpu_us_per_op,
    },
    Kind {
        name: "throughput",
        title: "operations per second: more is better",
        digits: 0,
        value: Round::throughput,
    },
];

/// Bars that stand together.
struct Group<'a> {
    heading: String,
    bars: Vec<(&'a Row, f64)>,
}

/// Writes `DIR/GROUP-cpu.svg` and `DIR/GROUP-throughput.svg`.
pub(crate) fn write(outcomes: &[Outcome], dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let mut names: Vec<_> = outcomes
        .iter()
        .map(|outcome| outcome.scenario.group)
        .collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        for kind in &KINDS {
            let members = outcomes
                .iter()
                .filter(|outcome| outcome.scenario.group == name);
            let groups: Vec<_> = members
                .map(|outcome| Group::of(outcome, kind))
                .filter(|group| !group.bars.is_empty())
                .collect();
            if groups.is_empty() {
                continue;
            }
            let path = dir.join(format!("{name}-{}.svg", kind.name));
            draw(&path, &groups, name, kind)
                .map_err(|err| anyhow!("{err}"))
                .with_context(|| format!("draw {}", path.display()))?;
        }
    }
    Ok(())
}

impl<'a> Group<'a> {
    fn of(outcome: &'a Outcome, kind: &Kind) -> Self {
        let rows = outcome.rows.iter();
        Self {
            heading: format!("{}: {}", outcome.scenario.name, outcome.scenario.about),
            bars: rows
                .filter_map(|row| Some((row, row.median(kind.value)?)))
                .collect(),
        }
    }

    /// The length of a bar is relative to the longest of its group: groups differ by orders of magnitude.
    fn longest(&self) -> f64 {
        let values = self.bars.iter().map(|(_, value)| *value);
        values.fold(f64::MIN_POSITIVE, f64::max)
    }

    fn height(&self) -> i32 {
        HEADING + BAR * self.bars.len() as i32 + GAP
    }
}

fn draw(
    path: &Path,
    groups: &[Group<'_>],
    name: &str,
    kind: &Kind,
) -> Result<(), Box<dyn std::error::Error>> {
    let height = TITLE + groups.iter().map(Group::height).sum::<i32>() + MARGIN;
    let area = SVGBackend::new(path, (WIDTH as u32, height as u32)).into_drawing_area();
    area.fill(&WHITE)?;
    let text = |size: i32, color: RGBColor| ("sans-serif", size).into_font().color(&color);
    let title = format!("{name}: {}", kind.title);
    area.draw(&Text::new(title, (MARGIN, 16), text(18, RGBColor(0, 0, 0))))?;
    let mut names: Vec<_> = Vec::new();
    let mut top = TITLE;
    for group in groups {
        let heading = group.heading.clone();
        area.draw(&Text::new(heading, (MARGIN, top + 8), text(14, GREY)))?;
        top += HEADING;
        for (row, value) in &group.bars {
            let color = match names.iter().position(|name| *name == row.subject) {
                Some(index) => index,
                None => {
                    names.push(row.subject);
                    names.len() - 1
                }
            };
            let color = Palette99::pick(color);
            let end = BARS + (value / group.longest() * f64::from(REACH)) as i32;
            let corners = [(BARS, top + 2), (end.max(BARS + 1), top + BAR - 2)];
            area.draw(&Rectangle::new(corners, color.filled()))?;
            let label = Text::new(
                row.subject,
                (MARGIN + 12, top + 3),
                text(13, RGBColor(0, 0, 0)),
            );
            area.draw(&label)?;
            let value = format!("{value:.*}", kind.digits);
            area.draw(&Text::new(value, (end + 6, top + 3), text(13, GREY)))?;
            top += BAR;
        }
        area.draw(&Rectangle::new(
            [(BARS - 1, top - BAR * group.bars.len() as i32), (BARS, top)],
            BLACK.filled(),
        ))?;
        top += GAP;
    }
    area.present()?;
    Ok(())
}
