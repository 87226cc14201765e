//! The figures in words.

use std::fmt::Write as _;

use super::{Linkage, Protection, Renewability, Scores, Unlinkability};

impl Protection {
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let Self { model, people, irreversibility, unlinkability, renewability, .. } = self;
        writeln!(text, "{model}, {people} made-up persons")?;
        writeln!(
            text,
            "\nirreversibility: stored row and every key but the keyholder's; in brackets with that key too"
        )?;
        for attack in irreversibility {
            let share = &attack.success;
            writeln!(
                text,
                "  {}\n    {:.2} % of {} ({:.2} to {:.2} %), chance {:.2} %: {:+.1} deviations   [{:.2} %]",
                attack.name,
                100.0 * share.value,
                attack.trials,
                100.0 * share.low,
                100.0 * share.high,
                100.0 * attack.chance,
                attack.deviations,
                100.0 * attack.with_the_secret.value
            )?;
        }
        let Unlinkability { one_key, two_keys, unprotected } = unlinkability;
        writeln!(
            text,
            "\nunlinkability: D_sys, 0 unlinkable to 1 linkable; what shuffled labels give stands beside it"
        )?;
        for (name, Scores { nearness, learnt }) in [("two tenants", one_key), ("two keys", two_keys)] {
            writeln!(text, "  {name}, nearness of ciphertexts  {}", in_words(nearness))?;
            writeln!(text, "  {name}, learnt weights           {}", in_words(learnt))?;
        }
        writeln!(text, "  without encryption (control)    {}", in_words(unprotected))?;
        let Renewability { templates, old_accepted, renewed_matched, renewed_compared } = renewability;
        writeln!(
            text,
            "\nrenewability, after re-keying\n  old templates accepted: {old_accepted} of {templates}\n  \
             renewed templates that match their person: {renewed_matched} of {renewed_compared}"
        )
    }
}

fn in_words(linkage: &Linkage) -> String {
    let Linkage { d_sys, low, high, shuffled, shuffled_high, .. } = linkage;
    format!("{d_sys:.3} ({low:.3} to {high:.3}), shuffled {shuffled:.3} (to {shuffled_high:.3})")
}
