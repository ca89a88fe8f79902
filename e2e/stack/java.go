package stack

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

//go:embed pom.xml
var pom []byte

// java is a Java runtime and HBase's jars.
type java struct {
	bin       string
	classpath string // of jars; a configuration folder goes before it
}

// oldest is the Java version that the stack is proved with; HBase 2.6 itself takes 8 and 11 as well.
const oldest = 17

// findJava finds Java and resolves HBase's jars: from a list in the user's cache when every jar on it is still there, else by
// Maven, which takes a minute when it has to download.
func findJava(ctx context.Context, log io.Writer) (java, error) {
	bin, err := javaBinary()
	if err != nil {
		return java{}, err
	}
	if err := checkVersion(ctx, bin); err != nil {
		return java{}, err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return java{}, fmt.Errorf("find the cache folder: %w", err)
	}
	sum := sha256.Sum256(pom)
	cp, err := classpath(ctx, log, filepath.Join(cache, "drover", fmt.Sprintf("stack-%x", sum[:6])))
	if err != nil {
		return java{}, err
	}
	return java{bin: bin, classpath: cp}, nil
}

func javaBinary() (string, error) {
	const install = "install the Debian package openjdk-17-jdk-headless, or set JAVA_HOME to a JDK 17"
	if home := os.Getenv("JAVA_HOME"); home != "" {
		bin, err := exec.LookPath(filepath.Join(home, "bin", "java"))
		if err != nil {
			return "", fmt.Errorf("%w: JAVA_HOME is %s, which has no bin/java: %s", ErrNoTools, home, install)
		}
		return bin, nil
	}
	bin, err := exec.LookPath("java")
	if err != nil {
		return "", fmt.Errorf("%w: java is not in PATH: %s", ErrNoTools, install)
	}
	return bin, nil
}

var versionText = regexp.MustCompile(`version "(\d+)(?:\.(\d+))?`)

func checkVersion(ctx context.Context, bin string) error {
	out, err := exec.CommandContext(ctx, bin, "-version").CombinedOutput()
	if err != nil {
		return fmt.Errorf("run %s -version: %w: %s", bin, err, out)
	}
	m := versionText.FindSubmatch(out)
	if m == nil {
		return nil // an unusual vendor: let the servers tell
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		return nil
	}
	if n < oldest {
		return fmt.Errorf("%w: %s is version %d, and %d is needed: install the Debian package openjdk-17-jdk-headless, or set JAVA_HOME", ErrNoTools, bin, n, oldest)
	}
	return nil
}

// classpath gives the jars, joined by colons. dir is the cache for exactly this pom.
func classpath(ctx context.Context, log io.Writer, dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make cache folder: %w", err)
	}
	// Two test processes that find the cache cold would both download into Maven's folder, which is not made for it.
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", fmt.Errorf("open cache lock: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	cached := filepath.Join(dir, "classpath")
	if cp, ok := readClasspath(cached); ok {
		return cp, nil
	}
	mvn, err := exec.LookPath("mvn")
	if err != nil {
		return "", fmt.Errorf("%w: mvn is not in PATH: install the Debian package maven", ErrNoTools)
	}
	file := filepath.Join(dir, "pom.xml")
	if err := os.WriteFile(file, pom, 0o644); err != nil {
		return "", fmt.Errorf("write pom: %w", err)
	}
	fresh := cached + ".new"
	fmt.Fprintln(log, "resolving HBase's jars with Maven; the first time downloads 115 MB")
	began := time.Now()
	// A repository that hiccups once in 188 downloads is common enough for a second try, which goes on where the first
	// ended.
	for try := range 2 {
		cmd := exec.CommandContext(ctx, mvn, "-q", "-B", "-f", file, "dependency:build-classpath", "-Dmdep.outputFile="+fresh)
		var out []byte
		if out, err = cmd.CombinedOutput(); err == nil {
			break
		}
		err = fmt.Errorf("resolve HBase's jars with %s: %w, which ends with:\n%s", strings.Join(cmd.Args, " "), err, lastLines(out, 20))
		if ctx.Err() != nil {
			return "", errors.Join(err, ctx.Err())
		}
		if try == 0 {
			fmt.Fprintln(log, err, "\ntrying once more")
		}
	}
	if err != nil {
		return "", err
	}
	cp, ok := readClasspath(fresh)
	if !ok {
		return "", fmt.Errorf("resolve HBase's jars: Maven's list %s names jars that are not there", fresh)
	}
	if err := os.Rename(fresh, cached); err != nil {
		return "", fmt.Errorf("keep the list of jars: %w", err)
	}
	fmt.Fprintf(log, "resolved HBase's jars in %.1f s\n", time.Since(began).Seconds())
	return cp, nil
}

// readClasspath reads a list of jars and tells whether it is whole.
func readClasspath(file string) (string, bool) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", false
	}
	cp := strings.TrimSpace(string(b))
	if cp == "" {
		return "", false
	}
	for jar := range strings.SplitSeq(cp, string(os.PathListSeparator)) {
		if _, err := os.Stat(jar); err != nil {
			return "", false
		}
	}
	return cp, true
}

// args builds a command line for one of HBase's classes. heap is in MiB.
func (j java) args(conf string, heap int, tuning []string, class string, rest ...string) []string {
	args := []string{fmt.Sprintf("-Xmx%dm", heap), "-XX:-UsePerfData", "-Djava.net.preferIPv4Stack=true"}
	args = append(args, tuning...)
	// HBase's netty and Hadoop look into the runtime's own classes, which it forbids from version 16 on unless told.
	args = append(args, "-Dorg.apache.hbase.thirdparty.io.netty.tryReflectionSetAccessible=true", "--add-modules", "jdk.unsupported")
	for _, p := range []string{
		"java.io", "java.lang", "java.lang.reflect", "java.net", "java.nio", "java.util", "java.util.concurrent",
		"jdk.internal.ref", "jdk.internal.util.random", "sun.nio.ch", "sun.security.util", "sun.security.x509",
	} {
		args = append(args, "--add-opens", "java.base/"+p+"=ALL-UNNAMED")
	}
	for _, p := range []string{"java.base/jdk.internal.misc", "java.base/sun.net.dns", "java.base/sun.net.util", "java.security.jgss/sun.security.krb5"} {
		args = append(args, "--add-exports", p+"=ALL-UNNAMED")
	}
	args = append(args, "-cp", conf+string(os.PathListSeparator)+j.classpath, class)
	return append(args, rest...)
}
