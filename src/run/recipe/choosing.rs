//! A recipe, chosen part by part.

use anyhow::Result;

use super::choice::Choice;
use super::images::FoundImages;
use super::machine::Machine;
use super::models::Models;
use super::text::text;
use super::wishes::Wishes;
use crate::config::DeviceChoice;

/// A configuration that fits what was asked for.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// TOML with comments.
    pub text: String,
    /// What was found and chosen: what, and in words.
    pub said: Vec<(&'static str, String)>,
    /// Processes that it is for: one for each GPU.
    pub processes: usize,
}

/// Chooses a recipe.
///
/// # Errors
/// Images or weights cannot be read, a student has no published name, or what is asked for does not fit.
pub fn recipe(wishes: &Wishes) -> Result<Recipe> {
    let models = Models::find(wishes)?;
    let images = FoundImages::find(wishes)?;
    let machine = Machine::look(wishes.device)?;
    let choice = Choice::of(wishes, &models, &images, &machine)?;
    let text = text(wishes, &models, &images, &choice);
    let mut said = vec![("images", images.in_words()), ("teacher", models.teacher_in_words())];
    said.push(("students", models.students_in_words()));
    said.extend(choice.in_words(&machine));
    Ok(Recipe { text, said, processes: machine.processes })
}

/// Processes that train together on this machine: one for each GPU.
///
/// # Errors
/// There is no such device.
pub fn processes(device: DeviceChoice) -> Result<usize> {
    Machine::processes_of(device)
}
