"""Everything that can be asked of Doppler, whatever it runs in."""
