import com.sun.management.OperatingSystemMXBean;
import java.lang.management.ManagementFactory;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.hbase.HBaseConfiguration;
import org.apache.hadoop.hbase.mapreduce.CopyTable;
import org.apache.hadoop.hbase.mapreduce.Import;
import org.apache.hadoop.mapreduce.Job;
import org.apache.hadoop.mapreduce.TaskCounter;

/**
 * Runs HBase's own CopyTable in this process, with two maps at once, and prints rows, seconds, CPU seconds, and the seconds since
 * main began. The first clock starts when the first map is set up, by which time the classes of the job are loaded, the regions
 * are found and the job is submitted; both end when the job is complete.
 */
public class Copy {
  static final AtomicLong began = new AtomicLong();
  static final AtomicLong cpu = new AtomicLong();
  static final OperatingSystemMXBean os = (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();

  /** CopyTable's own mapper, with a clock. */
  public static class Timed extends Import.Importer {
    @Override
    public void setup(Context context) {
      if (began.compareAndSet(0, System.nanoTime())) {
        cpu.set(os.getProcessCpuTime());
      }
      super.setup(context);
    }
  }

  // from, to, caching, folder for the job's files
  public static void main(String[] args) throws Exception {
    long started = System.nanoTime();
    Configuration conf = HBaseConfiguration.create();
    conf.set("mapreduce.framework.name", "local");
    conf.setInt("mapreduce.local.map.tasks.maximum", 2);
    conf.setBoolean("mapreduce.map.speculative", false);
    conf.setInt("mapreduce.client.completion.pollinterval", 20);
    conf.set("hbase.client.scanner.caching", args[2]);
    conf.set("hadoop.tmp.dir", args[3]);
    conf.set("fs.file.impl", "org.apache.hadoop.fs.LocalFileSystem"); // whatever the servers use
    CopyTable tool = new CopyTable();
    tool.setConf(conf);
    Job job = tool.createSubmittableJob(new String[] {"--versions=2147483647", "--new.name=" + args[1], args[0]});
    if (job == null || job.getMapperClass() != Import.Importer.class) {
      throw new Exception("CopyTable does not make the job that it made when this was written");
    }
    job.setMapperClass(Timed.class);
    if (!job.waitForCompletion(false)) {
      throw new Exception("the job failed");
    }
    long ended = System.nanoTime();
    double seconds = (ended - began.get()) / 1e9;
    double whole = (ended - started) / 1e9;
    double used = (os.getProcessCpuTime() - cpu.get()) / 1e9;
    long rows = job.getCounters().findCounter(TaskCounter.MAP_INPUT_RECORDS).getValue();
    System.out.printf(java.util.Locale.ROOT, "%d %.3f %.3f %.3f%n", rows, seconds, used, whole);
  }
}
