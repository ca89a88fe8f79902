package main

import (
	"os"
	"path/filepath"
)

// stateDir is where state folders live unless --state says otherwise: $DROVER_STATE, or $XDG_STATE_HOME/drover.
func stateDir(flag string) string {
	if flag != "" {
		return flag
	}
	if d := os.Getenv("DROVER_STATE"); d != "" {
		return d
	}
	return filepath.Join(xdgState(), "drover")
}

// budgetDir holds this host's table budgets. It is apart from --state, so that two runs with states of their own still keep
// one limit: $DROVER_BUDGETS, or $XDG_STATE_HOME/drover-budgets.
func budgetDir() string {
	if d := os.Getenv("DROVER_BUDGETS"); d != "" {
		return d
	}
	return filepath.Join(xdgState(), "drover-budgets")
}

// gatewaysDir holds, a folder for each source of gateways, what this host knows of it: the last good set, a pin. It is apart
// from --state, so that a pin holds for every run of the host: $DROVER_GATEWAYS, or $XDG_STATE_HOME/drover-gateways.
func gatewaysDir() string {
	if d := os.Getenv("DROVER_GATEWAYS"); d != "" {
		return d
	}
	return filepath.Join(xdgState(), "drover-gateways")
}

func xdgState() string {
	if d := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(d) {
		return d
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = os.TempDir()
	}
	return filepath.Join(home, ".local", "state")
}
