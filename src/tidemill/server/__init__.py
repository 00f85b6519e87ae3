"""Floor 8: the control plane. Translates HTTP to services and back; decides nothing."""
