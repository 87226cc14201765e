//! The same match twice behind one interface: in the clear, and encrypted with all keys at hand. For tests, evaluations
//! and benchmarks; the service itself never holds all keys in one place on purpose.

use velum_domain::{
    decision::Decision,
    matching::{Metric, Threshold},
};

use super::{
    MatchError, Matcher,
    encode::{QuantizedProbe, QuantizedTemplate, norm_squared},
    encrypt::{EncryptedProbe, EncryptedTemplate},
    keys::{EvaluationKey, PublicKey, SecretKeys},
};

/// The match on plain integers: exact, no noise.
pub struct PlaintextTwin;

impl PlaintextTwin {
    /// The score in steps; a match if and only if it is not negative.
    pub fn score(&self, probe: &QuantizedProbe, template: &QuantizedTemplate, threshold: Threshold) -> i64 {
        let inner: i64 = probe.components.iter().zip(template.components.iter()).map(|(w, v)| w * v).sum();
        let boundary = template.encoding.threshold_steps(threshold);
        match template.encoding.metric {
            Metric::SquaredEuclid => {
                let distance = norm_squared(&probe.components) + norm_squared(&template.components) - 2 * inner;
                boundary - distance
            }
            Metric::Cosine => inner - boundary,
        }
    }
}

impl Matcher for PlaintextTwin {
    type Template = QuantizedTemplate;
    type Probe = QuantizedProbe;

    fn protect_template(&self, template: QuantizedTemplate) -> QuantizedTemplate {
        template
    }

    fn protect_probe(&self, probe: QuantizedProbe) -> QuantizedProbe {
        probe
    }

    fn decide(
        &self,
        probe: &QuantizedProbe,
        template: &QuantizedTemplate,
        threshold: Threshold,
    ) -> Result<Decision, MatchError> {
        if probe.encoding != template.encoding {
            return Err(MatchError::DifferentEncoding);
        }
        let matches = self.score(probe, template, threshold) >= 0;
        Ok(if matches { Decision::Match } else { Decision::NoMatch })
    }
}

/// The encrypted match with the parts of all three parties in one hand.
pub struct EncryptedMatcher<'keys> {
    pub public: &'keys PublicKey,
    pub evaluation: &'keys EvaluationKey,
    pub secret: &'keys SecretKeys,
}

impl Matcher for EncryptedMatcher<'_> {
    type Template = EncryptedTemplate;
    type Probe = EncryptedProbe;

    fn protect_template(&self, template: QuantizedTemplate) -> EncryptedTemplate {
        self.public.encrypt_template(template)
    }

    fn protect_probe(&self, probe: QuantizedProbe) -> EncryptedProbe {
        self.public.encrypt_probe(probe)
    }

    fn decide(
        &self,
        probe: &EncryptedProbe,
        template: &EncryptedTemplate,
        threshold: Threshold,
    ) -> Result<Decision, MatchError> {
        let score = self.evaluation.score(probe, template)?;
        let decision = self.evaluation.decide(score, threshold)?;
        Ok(self.secret.open(&decision)?)
    }
}
