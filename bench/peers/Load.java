import com.sun.management.OperatingSystemMXBean;
import java.io.BufferedInputStream;
import java.io.DataInputStream;
import java.io.EOFException;
import java.io.FileInputStream;
import java.lang.management.ManagementFactory;
import java.util.ArrayList;
import java.util.List;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.hbase.HBaseConfiguration;
import org.apache.hadoop.hbase.TableName;
import org.apache.hadoop.hbase.client.BufferedMutator;
import org.apache.hadoop.hbase.client.Connection;
import org.apache.hadoop.hbase.client.ConnectionFactory;
import org.apache.hadoop.hbase.client.Durability;
import org.apache.hadoop.hbase.client.Put;

/**
 * Puts rows from a file straight into the region servers with a BufferedMutator for each thread.
 *
 * <p>Arguments: table, file, threads. Reading the file is over before the clock starts. Prints rows, seconds and CPU seconds.
 */
public class Load {
  record Row(byte[] key, byte[][] qualifiers, byte[][] values) {}

  static byte[] take(DataInputStream in) throws Exception {
    byte[] b = new byte[in.readInt()];
    in.readFully(b);
    return b;
  }

  static List<Row> rows(String path) throws Exception {
    List<Row> rows = new ArrayList<>();
    try (DataInputStream in = new DataInputStream(new BufferedInputStream(new FileInputStream(path), 1 << 20))) {
      while (true) {
        int n;
        try {
          n = in.readInt();
        } catch (EOFException end) {
          return rows;
        }
        byte[] key = take(in);
        byte[][] qualifiers = new byte[n][];
        byte[][] values = new byte[n][];
        for (int i = 0; i < n; i++) {
          byte[] column = take(in);
          qualifiers[i] = java.util.Arrays.copyOfRange(column, 2, column.length); // after "d:"
          values[i] = take(in);
        }
        rows.add(new Row(key, qualifiers, values));
      }
    }
  }

  public static void main(String[] args) throws Exception {
    TableName table = TableName.valueOf(args[0]);
    List<Row> rows = rows(args[1]);
    int threads = Integer.parseInt(args[2]);
    byte[] family = {'d'};
    long timestamp = System.currentTimeMillis();
    OperatingSystemMXBean os = (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
    Configuration conf = HBaseConfiguration.create();
    try (Connection connection = ConnectionFactory.createConnection(conf)) {
      long began = System.nanoTime();
      long cpu = os.getProcessCpuTime();
      Throwable[] failed = new Throwable[threads];
      Thread[] all = new Thread[threads];
      for (int t = 0; t < threads; t++) {
        int me = t;
        all[t] = new Thread(() -> {
          // A stretch of its own for each thread, so that all regions are written to at once.
          int from = (int) ((long) rows.size() * me / threads);
          int to = (int) ((long) rows.size() * (me + 1) / threads);
          try (BufferedMutator mutator = connection.getBufferedMutator(table)) {
            for (Row row : rows.subList(from, to)) {
              Put put = new Put(row.key()).setDurability(Durability.SYNC_WAL);
              for (int i = 0; i < row.qualifiers().length; i++) {
                put.addColumn(family, row.qualifiers()[i], timestamp, row.values()[i]);
              }
              mutator.mutate(put);
            }
          } catch (Throwable e) {
            failed[me] = e;
          }
        });
        all[t].start();
      }
      for (Thread t : all) {
        t.join();
      }
      for (Throwable e : failed) {
        if (e != null) {
          throw new Exception(e);
        }
      }
      System.out.printf(java.util.Locale.ROOT, "%d %.3f %.3f%n", rows.size(), (System.nanoTime() - began) / 1e9, (os.getProcessCpuTime() - cpu) / 1e9);
    }
  }
}
