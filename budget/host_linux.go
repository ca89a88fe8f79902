package budget

import (
	"fmt"
	"os"

	"github.com/zeebo/xxh3"
	"golang.org/x/sys/unix"
)

// hostNow is the clock that all processes of a boot share, in nanoseconds. It does not jump, and goes on in suspend.
func hostNow() (int64, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0, fmt.Errorf("read the host's clock: %w", err)
	}
	return t.Nano(), nil
}

// hostBoot tells one boot of the host from another.
func hostBoot() (id [16]byte, err error) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return id, fmt.Errorf("read the host's boot id: %w", err)
	}
	return xxh3.Hash128(text).Bytes(), nil
}
